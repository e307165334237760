//! The HTTP of `object_store`: requests on a [`Line`], waits that servers ask for, and answers that were none.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use ureq::Body;
use ureq::http::{
    HeaderMap, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, RANGE},
};

use super::{
    body::{AnswerBody, TakenBody, WholeBody},
    failure::{self, RequestFailure, broken},
    line::Line,
};

/// The shortest wait, of a server that asks for none.
const WAIT_LEAST: Duration = Duration::from_millis(100);
/// The longest wait that a server may ask for.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// All waits that a server may ask for before one request is answered, and how many.
const WAITS_MAX: (Duration, usize) = (Duration::from_secs(300), 30);
/// Bytes of the body of an answer that says what is wrong, at most.
const WRONG_BYTES_MAX: u64 = 16 << 10;
/// Bytes that are read over where a server sends a whole file in place of a part of it.
const SKIP_MAX: u64 = 1 << 20;

/// Makes clients of one line.
#[derive(Debug)]
pub(super) struct Connector(pub(super) Arc<Line>);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp);
        Ok(HttpClient::new(Service {
            line: Arc::clone(&self.0),
            plain: plain.as_deref() == Some("true"),
        }))
    }
}

/// A client.
#[derive(Debug)]
struct Service {
    line: Arc<Line>,
    /// Whether addresses without encryption may be asked.
    plain: bool,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut waited, mut waits) = (Duration::ZERO, 0);
        loop {
            let (line, plain, again) = (Arc::clone(&self.line), self.plain, request.clone());
            let sent = tokio::task::spawn_blocking(move || line.send(again, plain)).await;
            let sent =
                sent.map_err(|error| RequestFailure::Refused(error.to_string()).into_http())?;
            let answer = sent.map_err(RequestFailure::into_http)?;
            let status = answer.status();
            let wait = match status.as_u16() {
                429 | 503 => super::waits::asked(answer.headers(), SystemTime::now()),
                _ => None,
            };
            let Some(wait) = wait else {
                return self
                    .answered(&request, answer)
                    .map_err(RequestFailure::into_http);
            };
            // As long as none is as good as a moment.
            let wait = wait.max(WAIT_LEAST);
            (waited, waits) = (waited + wait, waits + 1);
            if wait > WAIT_MAX || waited > WAITS_MAX.0 || waits > WAITS_MAX.1 {
                let (status, seconds) = (status.as_u16(), wait.as_secs());
                return Err(RequestFailure::Busy { status, seconds }.into_http());
            }
            tracing::debug!(%status, seconds = wait.as_secs(), "waits as the server asks");
            tokio::time::sleep(wait).await;
        }
    }
}

impl Service {
    /// The answer as `object_store` takes it. Of one that says what is wrong, a word is left.
    fn answered(
        &self,
        request: &HttpRequest,
        answer: Response<Body>,
    ) -> Result<HttpResponse, RequestFailure> {
        let (mut parts, body) = answer.into_parts();
        let reader = body.into_reader();
        let wanted = length(&parts.headers).unwrap_or(u64::MAX);
        let mut body = AnswerBody::new(reader, wanted, Arc::clone(&self.line.tally));
        if !parts.status.is_success() {
            let said = body.beginning(WRONG_BYTES_MAX);
            let header = parts
                .headers
                .get("x-error-code")
                .and_then(|code| code.to_str().ok());
            let code = failure::code(&said).or_else(|| header.map(str::to_owned));
            let code = code.map(|code| self.line.secrets.without(&code));
            return match parts.status.as_u16() {
                // These have variants of their own in `object_store`.
                304 | 401 | 403 | 404 | 409 | 412 => {
                    let body = code.unwrap_or_default().into();
                    Ok(HttpResponse::from_parts(parts, body))
                }
                status => Err(RequestFailure::Status {
                    status,
                    code,
                    region: parts
                        .headers
                        .get("x-amz-bucket-region")
                        .and_then(|region| region.to_str().ok())
                        .map(str::to_owned),
                }),
            };
        }
        if parts
            .headers
            .get(CONTENT_ENCODING)
            .is_some_and(|encoding| encoding != "identity")
        {
            return Err(RequestFailure::Refused(
                "it compresses what it was asked to send as it is".to_owned(),
            ));
        }
        if parts.status == StatusCode::OK
            && let Some([start, end]) = range(request.headers())
        {
            let whole = length(&parts.headers).ok_or(RequestFailure::WholeFiles)?;
            if start > SKIP_MAX {
                return Err(RequestFailure::WholeFiles);
            }
            let end = end.min(whole);
            if start >= end {
                let (status, code, region) = (416, None, None);
                return Err(RequestFailure::Status {
                    status,
                    code,
                    region,
                });
            }
            body.skip(start).map_err(|error| broken(&error))?;
            body.only(end - start);
            parts.status = StatusCode::PARTIAL_CONTENT;
            let said = format!("bytes {start}-{}/{whole}", end - 1).parse();
            let said = said.map_err(|_| RequestFailure::WholeFiles)?;
            parts.headers.insert(CONTENT_RANGE, said);
            parts.headers.insert(CONTENT_LENGTH, (end - start).into());
        }
        if request.extensions().get::<WholeBody>().is_some() {
            parts.extensions.insert(TakenBody::new(body));
            return Ok(HttpResponse::from_parts(parts, Vec::new().into()));
        }
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// The range that a request asks for, without its end.
fn range(headers: &HeaderMap) -> Option<[u64; 2]> {
    let range = headers.get(RANGE)?.to_str().ok()?;
    let (start, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    Some([start.parse().ok()?, last.checked_add(1)?])
}
