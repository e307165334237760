//! The addresses of remote models: what they name, and what is secret in them.
//!
//! | address | store | secrets in it |
//! |---|---|---|
//! | `s3://bucket/path`, `s3a://…` | S3 and what speaks like it | none: refused |
//! | `gs://bucket/path` | Google Cloud Storage | none: refused |
//! | `az://container/path`, `azure`, `adl`, `abfs`, `abfss`, with `@account…` | Azure Blob Storage | none: refused |
//! | `https://….amazonaws.com/…`, `….r2.cloudflarestorage.com`, `….core.windows.net` | the store of that host | |
//! | `http(s)://host/path`, and those hosts with a query | plain HTTP | user and password, and the query, which may be a signature |

use object_store::ObjectStoreScheme;
use object_store::path::Path;
use url::Url;

use crate::{
    config::Secret,
    source::{SourceError, address::without_secrets, is_weights},
};

/// The kind of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    S3,
    Google,
    Azure,
    Http,
}

/// A remote model.
#[derive(Debug, Clone)]
pub(super) struct RemoteAddress {
    pub(super) kind: StoreKind,
    /// Without user, password, query and file.
    pub(super) url: Url,
    /// The folder in the store.
    pub(super) folder: Path,
    /// The file of weights, where the address names one.
    pub(super) file: Option<String>,
    /// User and password.
    pub(super) user: Option<[Secret; 2]>,
    pub(super) query: Option<Secret>,
}

impl RemoteAddress {
    /// Reads an address.
    ///
    /// # Errors
    ///
    /// [`SourceError::BadId`], which has no secret of the address.
    pub(super) fn read(given: &str) -> Result<Self, SourceError> {
        let refuse = |why: String| SourceError::BadId {
            given: without_secrets(given),
            what: "model address",
            why: why.into(),
        };
        let mut url = Url::parse(given.trim()).map_err(|error| refuse(error.to_string()))?;
        url.set_fragment(None);
        let query = url.query().map(|query| Secret(query.to_owned()));
        url.set_query(None);
        let (scheme, _) =
            ObjectStoreScheme::parse(&url).map_err(|_| refuse("no store has it".to_owned()))?;
        let web = matches!(url.scheme(), "http" | "https");
        let kind = match scheme {
            // A signed address is read as it is.
            _ if web && query.is_some() => StoreKind::Http,
            ObjectStoreScheme::AmazonS3 => StoreKind::S3,
            ObjectStoreScheme::GoogleCloudStorage => StoreKind::Google,
            ObjectStoreScheme::MicrosoftAzure => StoreKind::Azure,
            ObjectStoreScheme::Http => StoreKind::Http,
            _ => return Err(refuse("it is no store that is read".to_owned())),
        };
        if kind != StoreKind::Http {
            // `container@account` of Azure is no user.
            let user = kind != StoreKind::Azure && !url.username().is_empty();
            if user || url.password().is_some() || query.is_some() {
                return Err(refuse(format!(
                    "keys and signatures are not taken from an address of this kind; set {}",
                    kind.variables()
                )));
            }
        }
        let user = match (url.username(), url.password()) {
            _ if kind == StoreKind::Azure => None,
            ("", None) => None,
            (user, password) => {
                let plain = |text: &str| {
                    let decoded = percent_encoding::percent_decode_str(text);
                    decoded.decode_utf8_lossy().into_owned()
                };
                Some([user, password.unwrap_or_default()].map(|text| Secret(plain(text))))
            }
        };
        if user.is_some() && (url.set_username("").is_err() || url.set_password(None).is_err()) {
            return Err(refuse("it has no host".to_owned()));
        }
        let file = split_file(&mut url);
        let folder = match kind {
            StoreKind::Http => Path::from_url_path(url.path()).map_err(|error| error.to_string()),
            _ => ObjectStoreScheme::parse(&url)
                .map(|(_, path)| path)
                .map_err(|error| error.to_string()),
        };
        Ok(Self {
            kind,
            folder: folder.map_err(refuse)?,
            url,
            file,
            user,
            query,
        })
    }

    /// The address for people, without secrets and without the file.
    pub(super) fn shown(&self) -> String {
        self.url.as_str().trim_end_matches('/').to_owned()
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        self.url[..url::Position::BeforePath].to_owned()
    }
}

impl StoreKind {
    /// Where the keys of such a store are looked for.
    pub(super) fn variables(self) -> &'static str {
        match self {
            Self::S3 => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            Self::Google => "GOOGLE_APPLICATION_CREDENTIALS",
            Self::Azure => "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
            Self::Http => "the user and the password in the address",
        }
    }
}

/// Takes the name of a file of weights off the end of the path.
fn split_file(url: &mut Url) -> Option<String> {
    let last = url.path_segments()?.next_back()?.to_owned();
    if !is_weights(&last) {
        return None;
    }
    url.path_segments_mut().ok()?.pop();
    let name = percent_encoding::percent_decode_str(&last);
    Some(name.decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a file that is taken for a folder, and a scheme that nobody reads.
    #[test]
    fn addresses_name_a_store_a_folder_and_perhaps_a_file() {
        use StoreKind::{Azure, Google, Http, S3};
        for (given, kind, folder, file) in [
            ("s3://bucket/a/b", S3, "a/b", None),
            ("s3://bucket", S3, "", None),
            ("s3a://bucket/a/b/", S3, "a/b", None),
            ("S3://bucket/a/m.gguf", S3, "a", Some("m.gguf")),
            ("gs://bucket/a", Google, "a", None),
            ("az://container/a", Azure, "a", None),
            ("abfss://c@acc.dfs.core.windows.net/a", Azure, "a", None),
            ("https://s3.eu-west-1.amazonaws.com/bucket/a", S3, "a", None),
            (
                "https://b.s3.amazonaws.com/a/m.safetensors?X-Amz-Signature=x",
                Http,
                "a",
                Some("m.safetensors"),
            ),
            (
                "http://host:81/a%20b/m%20n.safetensors",
                Http,
                "a b",
                Some("m n.safetensors"),
            ),
            ("https://user:word@host/", Http, "", None),
        ] {
            let read =
                RemoteAddress::read(given).unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!(read.kind, kind, "{given}");
            assert_eq!(read.folder.as_ref(), folder, "{given}");
            assert_eq!(read.file.as_deref(), file, "{given}");
        }
    }

    /// Catches an address that is printed as it was given, by an error too.
    #[test]
    fn nothing_secret_of_an_address_is_shown() {
        for given in [
            "s3://MARK:MARK@bucket/a",
            "gs://MARK@bucket/a",
            "s3://bucket/a?X-Amz-Signature=MARK",
            "az://container/a?sig=MARK#MARK",
            "https://MARK:MA@MARK@host:99999/a?MARK",
            "http://MARK:MARK@host/a?MARK#MARK",
            "https://MARK:MARK@/a?MARK",
        ] {
            let shown = match RemoteAddress::read(given) {
                Ok(read) => format!("{} {} {read:?}", read.shown(), read.origin()),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("MARK"), "{given}: {shown}");
        }
    }
}
