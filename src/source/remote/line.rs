//! One request and its answer, redirects included: `ureq`'s agent, and the rules about who is told what.
//!
//! Keys, signatures and passwords go to the origin (scheme, host and port) that a request was made for, and nowhere else: of a request
//! that is redirected to another one only the headers in [`KEPT`] remain. Where a file was redirected to is remembered, so that not
//! every range of it is asked for twice; an address that no longer works is looked up again.

use core::fmt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::client::{HttpRequest, HttpRequestBody};
use ureq::http::{
    Error as HttpError, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, IF_MATCH, IF_MODIFIED_SINCE,
        IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LOCATION, RANGE, USER_AGENT,
    },
};
use ureq::{Agent, Body, SendBody, Timeout};

use super::{
    body::RequestBody,
    failure::{REDIRECTS_MAX, RequestFailure, broken},
    secrets::Secrets,
};
use crate::{
    config::Secret,
    source::{
        origin::{origin, resolved},
        tally::Tally,
    },
};

/// Headers that are sent to any host.
const KEPT: [HeaderName; 8] = [
    ACCEPT,
    ACCEPT_ENCODING,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_UNMODIFIED_SINCE,
    RANGE,
    USER_AGENT,
];
/// The ETag that the hub gives a file wherever its bytes are.
const LINKED_ETAG: &str = "x-linked-etag";
/// Connections that are kept open to a host.
const IDLE: usize = 64;

/// Hosts that a machine in a cloud has for its keys, and that are nowhere elsewhere.
const METADATA: [&str; 4] = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "metadata.google.internal",
];
/// How long those are waited for.
const METADATA_WAIT: Duration = Duration::from_secs(1);

/// How requests are sent.
#[derive(Debug, Clone, Copy)]
pub(in crate::source) struct Patience {
    /// The longest wait for a connection.
    pub(super) connect: Duration,
    /// The longest wait for an answer to begin, and for more of it in its middle.
    pub(super) silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
        }
    }
}

/// What is added to requests for one origin.
#[derive(Debug, Default)]
pub(super) struct Additions {
    pub(super) origin: Option<Uri>,
    pub(super) authorization: Option<Secret>,
    /// The query of the address of the model.
    pub(super) query: Option<Secret>,
}

/// Sends requests.
pub(super) struct Line {
    agent: Agent,
    patience: Patience,
    additions: Additions,
    pub(super) secrets: Secrets,
    pub(super) tally: Arc<Tally>,
    /// Where files were redirected to, and the ETag that came with the redirect.
    places: Mutex<HashMap<Uri, Hop>>,
}

/// Written by hand: places that files were redirected to may be signed.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

/// Where a request was redirected to.
#[derive(Debug, Clone)]
struct Hop {
    uri: Uri,
    etag: Option<HeaderValue>,
    /// Whether it has another origin than the request.
    foreign: bool,
}

impl Line {
    pub(super) fn new(
        agent: Agent,
        patience: Patience,
        additions: Additions,
        secrets: Secrets,
        tally: &Arc<Tally>,
    ) -> Self {
        Self {
            agent,
            patience,
            additions,
            secrets,
            tally: Arc::clone(tally),
            places: Mutex::default(),
        }
    }

    /// An agent that follows no redirect by itself.
    pub(super) fn agent(tls: ureq::tls::TlsConfig) -> Agent {
        let config = Agent::config_builder()
            .tls_config(tls)
            .user_agent(concat!(
                env!("CARGO_PKG_NAME"),
                "/",
                env!("CARGO_PKG_VERSION")
            ))
            // Ranges of a compressed file would be ranges of something else.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .allow_non_standard_methods(true)
            .max_idle_connections(2 * IDLE)
            .max_idle_connections_per_host(IDLE)
            .input_buffer_size(128 << 10)
            .output_buffer_size(64 << 10);
        config.build().new_agent()
    }

    /// The answer to a request, whatever its status, after redirects. `plain` allows addresses without encryption.
    pub(super) fn send(
        &self,
        request: HttpRequest,
        plain: bool,
    ) -> Result<Response<Body>, RequestFailure> {
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        let asked = request.uri().clone();
        let known = self.places().get(&asked).filter(|_| read).cloned();
        if let Some(hop) = known {
            let answer = self.send_to(&request, hop, plain)?;
            // The address may have been good for some minutes only.
            if !matches!(answer.status().as_u16(), 400 | 401 | 403 | 404 | 410) {
                return Ok(answer);
            }
            self.places().remove(&asked);
        }
        let mut hop = Hop {
            uri: self.signed(&asked)?,
            etag: None,
            foreign: false,
        };
        for hops in 0..=REDIRECTS_MAX {
            let at = hop.uri.clone();
            let answer = self.send_to(&request, hop.clone(), plain)?;
            let location = answer.headers().get(LOCATION);
            let Some(location) = location.filter(|_| answer.status().is_redirection()) else {
                if hops > 0 && answer.status().is_success() {
                    self.places().insert(asked, hop);
                }
                return Ok(answer);
            };
            if !read {
                return Ok(answer);
            }
            let to = location
                .to_str()
                .ok()
                .and_then(|location| resolved(&at, location));
            let to = to.ok_or_else(|| {
                RequestFailure::Refused("it redirects to what is no http address".to_owned())
            })?;
            if at.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
                return Err(RequestFailure::Refused(
                    "it redirects from an encrypted address to one that is not".to_owned(),
                ));
            }
            if let Some(etag) = answer.headers().get(LINKED_ETAG) {
                hop.etag = Some(etag.clone());
            }
            hop.foreign |= origin(&to) != origin(&asked);
            hop.uri = to;
        }
        Err(RequestFailure::Redirects)
    }

    /// Sends a request to a place, with what may be told there.
    fn send_to(
        &self,
        request: &HttpRequest,
        hop: Hop,
        plain: bool,
    ) -> Result<Response<Body>, RequestFailure> {
        let uri = &hop.uri;
        if uri.scheme_str() == Some("http") && !plain && !is_loopback(uri) {
            let host = uri.host().unwrap_or_default();
            return Err(RequestFailure::Refused(format!(
                "{host} would be asked without encryption; use https, or set AWS_ALLOW_HTTP, GOOGLE_ALLOW_HTTP or AZURE_ALLOW_HTTP to true"
            )));
        }
        let mut headers = request.headers().clone();
        if hop.foreign {
            headers = headers
                .iter()
                .filter(|(name, _)| KEPT.contains(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
        } else if let Some(authorization) = &self.additions.authorization
            && self.is_own(uri)
            && !headers.contains_key(AUTHORIZATION)
        {
            let mut value = HeaderValue::from_str(&authorization.0).map_err(|_| {
                RequestFailure::Refused(
                    "the user or the password has letters that no header has".to_owned(),
                )
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        self.tally.request();
        let answer = self.once(request, uri, headers)?;
        let Some(etag) = hop.etag else {
            return Ok(answer);
        };
        let (mut parts, body) = answer.into_parts();
        parts.headers.insert(ETAG, etag);
        Ok(Response::from_parts(parts, body))
    }

    fn once(
        &self,
        request: &HttpRequest,
        uri: &Uri,
        headers: HeaderMap,
    ) -> Result<Response<Body>, RequestFailure> {
        let body = request.body().clone();
        let mut next = Request::builder().method(request.method()).uri(uri);
        if let Some(into) = next.headers_mut() {
            *into = headers;
            // Stores refuse a body whose length is not said, be it empty.
            if !body.is_empty() || has_body(request) {
                into.insert(CONTENT_LENGTH, body.content_length().into());
            }
        }
        let metadata = uri.host().is_some_and(|host| METADATA.contains(&host));
        let (connect, silence) = match metadata {
            true => (METADATA_WAIT, 5 * METADATA_WAIT),
            false => (self.patience.connect, self.patience.silence),
        };
        let wrong = |error: HttpError| RequestFailure::Refused(error.to_string());
        macro_rules! run {
            ($body:expr) => {{
                let next = next.body($body).map_err(wrong)?;
                let next = self.agent.configure_request(next);
                let next = next
                    .timeout_connect(Some(connect))
                    .timeout_recv_response(Some(silence))
                    .timeout_per_read(Some(silence))
                    .timeout_per_write(Some(silence));
                self.agent.run(next.build())
            }};
        }
        let answer = match body.is_empty() && !has_body(request) {
            true => run!(()),
            false => run!(sent(body)),
        };
        answer.map_err(|error| self.explain(&error))
    }

    /// The address with the query of the model's address.
    fn signed(&self, uri: &Uri) -> Result<Uri, RequestFailure> {
        match &self.additions.query {
            Some(query) if uri.query().is_none() && self.is_own(uri) => {
                let signed = format!("{uri}?{}", query.0).parse();
                signed.map_err(|_| {
                    RequestFailure::Refused("its query has letters that no address has".to_owned())
                })
            }
            _ => Ok(uri.clone()),
        }
    }

    fn is_own(&self, uri: &Uri) -> bool {
        let own = self.additions.origin.as_ref();
        own.is_some_and(|own| origin(own) == origin(uri))
    }

    /// A failure of `ureq`, without addresses, which may be signed.
    fn explain(&self, error: &ureq::Error) -> RequestFailure {
        match error {
            ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
                RequestFailure::Line(format!(
                    "no connection within {} s",
                    self.patience.connect.as_secs_f64()
                ))
            }
            ureq::Error::Timeout(_) => RequestFailure::Silent(self.patience.silence.as_secs()),
            ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) | ureq::Error::Http(_) => {
                RequestFailure::Refused("its address is none that can be asked".to_owned())
            }
            ureq::Error::Io(error) => broken(error),
            // A proxy that wants a password, or makes no connections, says the same the next time.
            ureq::Error::ConnectProxyFailed(said) if said.contains(" 4") => {
                RequestFailure::Refused(self.secrets.without(&error.to_string()))
            }
            ureq::Error::Tls(_)
            | ureq::Error::Rustls(_)
            | ureq::Error::Pem(_)
            | ureq::Error::InvalidProxyUrl => {
                RequestFailure::Refused(self.secrets.without(&error.to_string()))
            }
            error => RequestFailure::Line(self.secrets.without(&error.to_string())),
        }
    }

    fn places(&self) -> std::sync::MutexGuard<'_, HashMap<Uri, Hop>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a request is of a kind that has a body, be it empty.
fn has_body(request: &HttpRequest) -> bool {
    matches!(
        *request.method(),
        Method::PUT | Method::POST | Method::PATCH
    )
}

fn sent(body: HttpRequestBody) -> SendBody<'static> {
    SendBody::from_owned_reader(RequestBody::new(body))
}

/// Whether an address is one of this machine, which nobody listens to.
pub(super) fn is_loopback(uri: &Uri) -> bool {
    let Some(host) = uri.host() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost"
        || host.ends_with(".localhost")
        || address.is_ok_and(|address| address.is_loopback())
}
