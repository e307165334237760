//! Requests that write to the hub: where they go, who is told the token, and when they are sent again.

use std::{io::Read, time::Duration};

use ureq::{
    Agent, Body, SendBody,
    http::{
        Request, Response, Uri,
        header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, LOCATION},
    },
};

use super::HubBuilder;
use crate::{
    config::Secret,
    source::{
        SourceError,
        backoff::Backoff,
        origin::{origin, resolved},
    },
};

/// The longest wait for an answer to begin: the hub looks at what it was given first.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Tries after the first one, and the wait before the second.
const RETRIES: usize = 5;
const WAIT_FIRST: Duration = Duration::from_millis(200);
/// Redirects of one request: a renamed model, then the place of its bytes.
const REDIRECTS_MAX: usize = 5;
/// Bytes of an answer that are read.
const ANSWER_MAX: u64 = 64 << 20;

/// A model of the hub that is written to.
#[derive(Debug)]
pub(crate) struct HubLine {
    agent: Agent,
    pub(crate) endpoint: String,
    /// `org/name`.
    pub(crate) id: String,
    /// A branch.
    pub(crate) revision: String,
    token: Secret,
}

/// A request.
#[derive(Debug)]
pub(crate) struct HubRequest<'a> {
    url: &'a str,
    body: Option<Vec<u8>>,
    /// The type of the body.
    speaks: &'static str,
    /// Whether it may be sent again where its answer is lost.
    again: bool,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct HubAnswer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) etag: Option<String>,
    /// The hub's own words for an error.
    words: Option<String>,
}

impl HubAnswer {
    /// The hub's words, after a colon.
    pub(crate) fn said(&self) -> String {
        let words = self.words.as_ref();
        words.map_or(String::new(), |words| format!(" ({words})"))
    }
}

impl<'a> HubRequest<'a> {
    pub(crate) fn get(url: &'a str) -> Self {
        Self {
            url,
            body: None,
            speaks: "application/json",
            again: true,
        }
    }

    /// A request with a body, of JSON unless it [says](Self::speaking) otherwise.
    pub(crate) fn json(url: &'a str, body: Vec<u8>) -> Self {
        Self {
            body: Some(body),
            ..Self::get(url)
        }
    }

    pub(crate) fn speaking(self, speaks: &'static str) -> Self {
        Self { speaks, ..self }
    }

    /// Not to be sent again where its answer is lost: it may have been carried out.
    pub(crate) fn once(self) -> Self {
        Self {
            again: false,
            ..self
        }
    }
}

impl HubLine {
    /// The model at an address, `hf://org/name` or `hf://org/name@branch`, with everything else from the environment. Sends nothing.
    ///
    /// # Errors
    ///
    /// [`SourceError::BadId`] for what cannot be a model, and [`SourceError::Store`] without a token.
    pub(crate) fn open(address: &str, token: Option<&Secret>) -> Result<Self, SourceError> {
        let mut builder = HubBuilder::new(address.to_owned());
        if let Some(token) = token {
            builder = builder.token(token.0.clone());
        }
        let (endpoint, id, revision) = builder.place()?;
        let token = builder.token_to_send();
        let token = token.ok_or_else(|| SourceError::Store {
            at: format!("hf://{id}"),
            reason: "there is no token; set HF_TOKEN to one that may write this model".to_owned(),
        })?;
        let config = Agent::config_builder()
            .user_agent(concat!(
                env!("CARGO_PKG_NAME"),
                "/",
                env!("CARGO_PKG_VERSION")
            ))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(SILENCE_MAX))
            .timeout_recv_response(Some(SILENCE_MAX))
            .timeout_per_read(Some(SILENCE_MAX))
            .timeout_per_write(Some(SILENCE_MAX));
        Ok(Self {
            agent: config.build().new_agent(),
            endpoint,
            id,
            revision,
            token: Secret(token),
        })
    }

    /// Sends a request. The error is a reason without secrets.
    pub(crate) fn send(&self, request: &HubRequest<'_>) -> Result<HubAnswer, String> {
        let send = |url: &str| {
            let mut next = Request::builder().uri(url).header(ACCEPT, request.speaks);
            if self.owns(url) {
                next = next.header(AUTHORIZATION, format!("Bearer {}", self.token.0));
            }
            match &request.body {
                None => self.agent.run(next.body(()).map_err(ureq::Error::Http)?),
                Some(body) => {
                    let next = next.method("POST").header(CONTENT_TYPE, request.speaks);
                    let next = next.header(CONTENT_LENGTH, body.len());
                    self.agent
                        .run(next.body(&body[..]).map_err(ureq::Error::Http)?)
                }
            }
        };
        let read = request.body.is_none();
        self.again(request.again, || self.followed(request.url, read, &send))
    }

    /// Sends `len` bytes to a signed address, without the token.
    pub(crate) fn put(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        len: u64,
        body: &dyn Fn() -> Result<Box<dyn Read + Send>, String>,
    ) -> Result<HubAnswer, String> {
        self.again(true, || {
            let mut next = Request::builder().method("PUT").uri(url);
            for (name, value) in headers {
                next = next.header(*name, *value);
            }
            let next = next.header(CONTENT_LENGTH, len);
            let next = next.body(SendBody::from_owned_reader(body()?));
            let next = next.map_err(|error| error.to_string())?;
            answer(self.agent.run(next).map_err(|error| self.reason(&error))?)
        })
    }

    /// Follows redirects: of what only reads anywhere, of what writes to the hub alone.
    fn followed(
        &self,
        url: &str,
        read: bool,
        send: &dyn Fn(&str) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<HubAnswer, String> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let found = send(&url).map_err(|error| self.reason(&error))?;
            let place = found.headers().get(LOCATION);
            let place = place.and_then(|place| place.to_str().ok());
            let Some(place) = place.filter(|_| found.status().is_redirection()) else {
                return answer(found);
            };
            let at: Option<Uri> = url.parse().ok();
            let to = at.and_then(|at| resolved(&at, place));
            let to = to
                .ok_or("it redirects to what is no http address")?
                .to_string();
            if !read && !self.owns(&to) {
                return Err("it redirects what is to be written to another host".to_owned());
            }
            url = to;
        }
        Err(format!("it redirects more than {REDIRECTS_MAX} times"))
    }

    /// Tries again what may pass: lost lines, a hub that is busy.
    fn again(
        &self,
        again: bool,
        send: impl Fn() -> Result<HubAnswer, String>,
    ) -> Result<HubAnswer, String> {
        let mut wait = Backoff::new(RETRIES, WAIT_FIRST);
        loop {
            let passes = match send() {
                Ok(answer) if matches!(answer.status, 408 | 425 | 429 | 500..) => Ok(answer),
                Ok(answer) => return Ok(answer),
                Err(reason) if again => Err(reason),
                Err(reason) => return Err(reason),
            };
            if !wait.again() {
                return passes;
            }
        }
    }

    fn owns(&self, url: &str) -> bool {
        let [own, other] = [&*self.endpoint, url].map(|url| {
            let uri: Option<Uri> = url.parse().ok();
            uri.and_then(|uri| origin(&uri))
        });
        own.is_some() && own == other
    }

    /// An error without addresses, which may be signed, and without the token.
    fn reason(&self, error: &ureq::Error) -> String {
        let reason = match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => "its address is none".to_owned(),
            error => error.to_string(),
        };
        reason.replace(&self.token.0, "***")
    }
}

fn answer(found: Response<Body>) -> Result<HubAnswer, String> {
    let (parts, body) = found.into_parts();
    let header = |name: &str| {
        let value = parts.headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let mut bytes = Vec::new();
    let read = body.into_reader().take(ANSWER_MAX).read_to_end(&mut bytes);
    read.map_err(|error| format!("its answer broke off: {error}"))?;
    Ok(HubAnswer {
        status: parts.status.as_u16(),
        etag: header(ETAG.as_str()),
        words: header("x-error-message").or_else(|| header("x-error-code")),
        body: bytes,
    })
}
