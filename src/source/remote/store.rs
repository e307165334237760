//! From an address and the environment to a store of `object_store`.
//!
//! | store | variables |
//! |---|---|
//! | S3 | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_S3`, `AWS_SKIP_SIGNATURE` and the others that `object_store` knows |
//! | Google | `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_SERVICE_ACCOUNT`, …; `SERVICE_ACCOUNT`; `STORAGE_EMULATOR_HOST` |
//! | Azure | `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_SAS_TOKEN`, …; `AZURE_STORAGE_ACCOUNT`, `AZURE_STORAGE_KEY` |
//! | all | `AWS_CA_BUNDLE`, `SSL_CERT_FILE`: certificates to trust in place of the usual ones; `HTTPS_PROXY`, `NO_PROXY` |
//!
//! An address without encryption is asked where it is one of this machine, where `AWS_ALLOW_HTTP` (`GOOGLE_…`, `AZURE_…`) is true,
//! or where the model itself is named with `http://`.

use core::fmt;
use std::sync::Arc;

use base64::Engine;
use object_store::{
    ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    http::HttpBuilder,
    multipart::MultipartStore,
    path::Path,
};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::{
    address::{RemoteAddress, StoreKind},
    line::{Additions, Line, Patience},
    profile,
    secrets::Secrets,
    service::Connector,
};
use crate::{
    config::Secret,
    source::{SourceError, environment::Environment, tally::Tally},
};

/// Parts of names of variables whose values are secret.
const SECRET: [&str; 9] = [
    "KEY",
    "SECRET",
    "TOKEN",
    "PASSWORD",
    "SAS",
    "CREDENTIAL",
    "BEARER",
    "ROLE",
    "ACCOUNT",
];
/// Variables with certificates, the first that is set.
const CERTIFICATES: [&str; 2] = ["AWS_CA_BUNDLE", "SSL_CERT_FILE"];

/// A store, and the folder in it that an address names.
#[derive(Clone)]
pub(crate) struct RemoteStore {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The same store for uploads in parts, where it takes them.
    pub(super) parts: Option<InParts>,
    pub(crate) kind: StoreKind,
    /// The folder.
    pub(crate) folder: Path,
    /// The file of weights, where the address names one.
    pub(crate) file: Option<String>,
    /// The address for people, without secrets.
    pub(crate) at: String,
    pub(super) line: Arc<Line>,
    /// Whether the environment has no keys, so that they are looked for in a machine of a cloud.
    pub(super) keyless: bool,
    pub(super) hub: Option<Arc<HubFiles>>,
}

/// Written by hand: those of the stores print what they were made of.
impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteStore")
            .field("at", &self.at)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// A store that takes uploads in parts.
#[derive(Clone)]
pub(super) struct InParts(pub(super) Arc<dyn MultipartStore>);

impl fmt::Debug for InParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InParts")
    }
}

/// A store, as one that takes whole objects and as one that takes parts.
type Stores = (Arc<dyn ObjectStore>, Option<InParts>);

fn stores<T: ObjectStore + MultipartStore>(store: T) -> Stores {
    let store = Arc::new(store);
    (
        Arc::clone(&store) as Arc<dyn ObjectStore>,
        Some(InParts(store)),
    )
}

/// How a store is reached.
#[derive(Debug, Clone, Default)]
pub(crate) struct RemoteOptions {
    pub(crate) environment: Environment,
    pub(in crate::source) patience: Patience,
    /// Whether `object_store` may send requests again by itself, as writers want it. Reads are resumed by this crate.
    pub(crate) retries: bool,
    /// A header `Authorization` for the origin of a plain HTTP address.
    pub(in crate::source) authorization: Option<Secret>,
    /// What counts its requests.
    pub(in crate::source) tally: Arc<Tally>,
    /// What is known of a model on the hub.
    pub(in crate::source) hub: Option<Arc<HubFiles>>,
}

/// What is known of a model on the hub.
#[derive(Debug)]
pub(crate) struct HubFiles {
    /// `org/name@revision`.
    pub(crate) at: String,
    /// The commit of all files.
    pub(crate) commit: String,
    /// The names of all files, sorted.
    pub(crate) names: Vec<String>,
    /// Whether a token is sent.
    pub(crate) with_token: bool,
}

impl RemoteStore {
    /// The store of an address. Sends nothing yet.
    ///
    /// # Errors
    ///
    /// [`SourceError::BadId`] for what is no address of a store, and [`SourceError::Store`] for variables that make no store.
    pub(crate) fn open(given: &str, options: &RemoteOptions) -> Result<Self, SourceError> {
        let address = RemoteAddress::read(given)?;
        let environment = &options.environment;
        let at = match &options.hub {
            Some(hub) => hub.at.clone(),
            None => address.shown(),
        };
        let wrong = |reason: String| SourceError::Store {
            at: at.clone(),
            reason,
        };
        let profile = match address.kind {
            StoreKind::S3 => profile::variables(environment).map_err(wrong)?,
            _ => Vec::new(),
        };
        let mut secrets = Secrets::default();
        for prefix in ["AWS_", "GOOGLE_", "AZURE_", "SERVICE_"] {
            for (name, value) in environment.beginning_with(prefix) {
                if is_secret(&name) {
                    secrets.add(&value);
                }
            }
        }
        for (_, value) in profile.iter().filter(|(name, _)| is_secret(name)) {
            secrets.add(value);
        }
        let authorization = address.user.as_ref().map(|[user, password]| {
            secrets.add(&password.0);
            let both = format!("{}:{}", user.0, password.0);
            let encoded = base64::engine::general_purpose::STANDARD.encode(both);
            Secret(format!("Basic {encoded}"))
        });
        let authorization = authorization.or_else(|| options.authorization.clone());
        for secret in authorization.iter().chain(&address.query) {
            secrets.add(&secret.0);
        }
        let tls = tls(environment).map_err(wrong)?;
        let additions = Additions {
            origin: address.origin().parse().ok(),
            authorization,
            query: address.query.clone(),
        };
        let line = Line::new(
            Line::agent(tls),
            options.patience,
            additions,
            secrets,
            &options.tally,
        );
        let line = Arc::new(line);
        let has_keys = profile.iter().any(|(name, _)| is_secret(name));
        let keyless = !has_keys && !address.kind.is_keyed(environment);
        let made = made(&address, options, profile, &line);
        let (store, parts) = made.map_err(|reason| wrong(line.secrets.without(&reason)))?;
        Ok(Self {
            store,
            parts,
            kind: address.kind,
            at,
            folder: address.folder,
            file: address.file,
            line,
            hub: options.hub.clone(),
            keyless,
        })
    }

    /// The place of a file of the folder.
    pub(crate) fn path(&self, file: &str) -> Path {
        let parts = file.split('/');
        parts.fold(self.folder.clone(), |path, part| path.join(part))
    }
}

/// The store; the error is a reason that may have secrets in it.
fn made(
    address: &RemoteAddress,
    options: &RemoteOptions,
    profile: Vec<(String, String)>,
    line: &Arc<Line>,
) -> Result<Stores, String> {
    let environment = &options.environment;
    let url = address.url.as_str();
    let client = ClientOptions::new();
    let connector = Connector(Arc::clone(line));
    let retry = match options.retries {
        true => RetryConfig::default(),
        false => RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        },
    };
    let said = |error: object_store::Error| error.to_string();
    Ok(match address.kind {
        StoreKind::S3 => {
            let mut builder = AmazonS3Builder::new()
                .with_client_options(client)
                .with_retry(retry)
                .with_http_connector(connector);
            let variables = environment.beginning_with("AWS_");
            for (name, value) in variables.into_iter().chain(profile) {
                if name.starts_with("AWS_ENDPOINT_URL") {
                    check_endpoint(&name, &value)?;
                }
                if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                    builder = builder.with_config(key, value);
                }
            }
            stores(builder.with_url(url).build().map_err(said)?)
        }
        StoreKind::Google => {
            let mut builder = GoogleCloudStorageBuilder::new()
                .with_client_options(client)
                .with_retry(retry)
                .with_http_connector(connector);
            let mut variables = environment.beginning_with("GOOGLE_");
            if let Some(file) = environment.get("SERVICE_ACCOUNT") {
                variables.push(("GOOGLE_SERVICE_ACCOUNT".to_owned(), file));
            }
            if let Some(host) = environment.get("STORAGE_EMULATOR_HOST") {
                let url = if host.contains("://") {
                    host
                } else {
                    format!("http://{host}")
                };
                variables.push(("GOOGLE_BASE_URL".to_owned(), url));
                variables.push(("GOOGLE_SKIP_SIGNATURE".to_owned(), "true".to_owned()));
            }
            for (name, value) in variables {
                if name == "GOOGLE_BASE_URL" {
                    check_endpoint(&name, &value)?;
                }
                if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() {
                    builder = builder.with_config(key, value);
                }
            }
            stores(builder.with_url(url).build().map_err(said)?)
        }
        StoreKind::Azure => {
            let mut builder = MicrosoftAzureBuilder::new()
                .with_client_options(client)
                .with_retry(retry)
                .with_http_connector(connector);
            let mut variables = environment.beginning_with("AZURE_");
            for (name, value) in &mut variables {
                // The names that Azure's own programs have.
                let known = match name.as_str() {
                    "AZURE_STORAGE_ACCOUNT" => "AZURE_STORAGE_ACCOUNT_NAME",
                    "AZURE_STORAGE_KEY" => "AZURE_STORAGE_ACCOUNT_KEY",
                    _ => name,
                };
                *name = known.to_owned();
                if name.ends_with("_ENDPOINT") {
                    check_endpoint(name, value)?;
                }
            }
            for (name, value) in variables {
                if let Ok(key) = name.to_ascii_lowercase().parse::<AzureConfigKey>() {
                    builder = builder.with_config(key, value);
                }
            }
            stores(builder.with_url(url).build().map_err(said)?)
        }
        StoreKind::Http => {
            let builder = HttpBuilder::new()
                .with_url(address.origin())
                .with_client_options(client.with_allow_http(true))
                .with_retry(retry)
                .with_http_connector(connector);
            (Arc::new(builder.build().map_err(said)?), None)
        }
    })
}

/// Whether the value of a variable is secret, by its name.
fn is_secret(variable: &str) -> bool {
    SECRET.iter().any(|part| variable.contains(part))
}

impl StoreKind {
    /// Whether the environment says which keys to use, or that there are none.
    fn is_keyed(self, environment: &Environment) -> bool {
        let names: &[&str] = match self {
            Self::S3 => &[
                "AWS_ACCESS_KEY_ID",
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                "AWS_SKIP_SIGNATURE",
            ],
            Self::Google => &["GOOGLE_", "SERVICE_ACCOUNT", "STORAGE_EMULATOR_HOST"],
            Self::Azure => &[
                "AZURE_STORAGE_",
                "AZURE_CLIENT_ID",
                "AZURE_FEDERATED_TOKEN_FILE",
                "AZURE_SKIP_SIGNATURE",
            ],
            Self::Http => return true,
        };
        names
            .iter()
            .any(|name| !environment.beginning_with(name).is_empty())
    }
}

/// Refuses an endpoint with a user: nothing would send it there.
fn check_endpoint(variable: &str, value: &str) -> Result<(), String> {
    let url =
        url::Url::parse(value).map_err(|error| format!("{variable} is no address: {error}"))?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    match plain {
        true => Ok(()),
        false => Err(format!(
            "{variable} has a user, a password or a query; keys have variables of their own"
        )),
    }
}

/// The certificates that are trusted.
fn tls(environment: &Environment) -> Result<TlsConfig, String> {
    let named = CERTIFICATES
        .iter()
        .find_map(|name| Some((name, environment.get(name)?)));
    let Some((name, file)) = named else {
        return Ok(TlsConfig::default());
    };
    let wrong = |reason: String| format!("{name}={file}: {reason}");
    let pem = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    });
    let certificates = certificates
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("it has no certificate".to_owned()));
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certificates))
        .build())
}
