//! From errors of `object_store` to those of a source.

use object_store::Error;

use super::{
    address::StoreKind,
    failure::{RequestFailure, is_expired},
    store::RemoteStore,
};
use crate::source::SourceError;

/// Words of stores for a bucket that is not there.
const NO_BUCKET: [&str; 3] = ["NoSuchBucket", "ContainerNotFound", "ResourceNotFound"];

/// Whether the same request may succeed a little later.
pub(super) fn passes(error: &Error) -> bool {
    RequestFailure::of(error).is_some_and(RequestFailure::passes)
}

/// The status of an answer that `object_store` has no word for.
pub(super) fn status(error: &Error) -> Option<u16> {
    match RequestFailure::of(error) {
        Some(RequestFailure::Status { status, .. }) => Some(*status),
        _ => None,
    }
}

/// The store's word for an error, of which the service has left nothing else of the body.
pub(super) fn code(error: &(dyn core::error::Error + 'static)) -> Option<String> {
    if let Some(RequestFailure::Status { code, .. }) = RequestFailure::of(error) {
        return code.clone();
    }
    let text = error.to_string();
    let last = text.rsplit(": ").next()?;
    let is_word = !last.is_empty() && last.chars().all(|c| c.is_ascii_alphanumeric());
    is_word.then(|| last.to_owned())
}

impl RemoteStore {
    /// An error of the store about a file.
    pub(super) fn explain(&self, file: &str, error: Error) -> SourceError {
        let (at, file) = (self.at.clone(), file.to_owned());
        let code = code(&error);
        if code.as_deref().is_some_and(is_expired) {
            return SourceError::Expired { at, file };
        }
        if let (Some(hub), Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) =
            (&self.hub, &error)
        {
            return SourceError::Unauthorized {
                at,
                file,
                status: match error {
                    Error::PermissionDenied { .. } => 403,
                    _ => 401,
                },
                with_token: hub.with_token,
            };
        }
        let denied = |status| SourceError::Denied {
            at: at.clone(),
            file: file.clone(),
            status,
            code: code.clone().map(Into::into),
            remedy: self.kind.remedy(),
        };
        match &error {
            Error::NotFound { .. } => match code.as_deref() {
                Some(code) if NO_BUCKET.contains(&code) => {
                    let reason = format!("there is no such bucket or container ({code})");
                    SourceError::Store { at, reason }
                }
                _ => SourceError::NotFound { at, file },
            },
            Error::PermissionDenied { .. } => denied(403),
            Error::Unauthenticated { .. } => denied(401),
            _ => match RequestFailure::of(&error) {
                Some(RequestFailure::WholeFiles) => SourceError::WholeFiles { at, file },
                Some(RequestFailure::Status {
                    region: Some(region),
                    status: 301 | 307 | 400,
                    ..
                }) => SourceError::Store {
                    at,
                    reason: format!(
                        "its bucket is in the region {region}; set AWS_REGION={region}"
                    ),
                },
                Some(RequestFailure::Line(_) | RequestFailure::Silent(_)) if self.keyless => {
                    SourceError::Store {
                        at,
                        reason: format!("no keys were found; {}", self.kind.remedy()),
                    }
                }
                Some(failure) => self.network(&file, failure.to_string()),
                None => self.network(&file, self.line.secrets.without(&error.to_string())),
            },
        }
    }

    pub(super) fn network(&self, file: &str, reason: String) -> SourceError {
        SourceError::Network {
            at: self.at.clone(),
            file: file.to_owned(),
            endpoint: match &self.hub {
                Some(_) => "the hub".into(),
                None => self.kind.name().into(),
            },
            source: reason.into(),
        }
    }
}

impl StoreKind {
    fn name(self) -> &'static str {
        match self {
            Self::S3 => "the S3 store",
            Self::Google => "Google Cloud Storage",
            Self::Azure => "Azure Blob Storage",
            Self::Http => "the server",
        }
    }

    /// What to do about an answer that a file may not be read.
    fn remedy(self) -> &'static str {
        match self {
            Self::S3 => {
                "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) to keys that may read it, AWS_REGION to its region, \
                 or AWS_SKIP_SIGNATURE=true for a bucket that everybody may read"
            }
            Self::Google => {
                "set GOOGLE_APPLICATION_CREDENTIALS to a file of keys that may read it, or GOOGLE_SKIP_SIGNATURE=true for a bucket that \
                 everybody may read"
            }
            Self::Azure => {
                "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN to what may read it, or \
                 AZURE_SKIP_SIGNATURE=true for a container that everybody may read"
            }
            Self::Http => {
                "put a user and a password into the address (https://user:password@host/…), or take a new signed address"
            }
        }
    }
}
