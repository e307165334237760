//! Redirects, followed by hand: the token goes to the origin of the hub (scheme, host and port) and nowhere else.
//!
//! `ureq` compares hosts and ignores ports, so another server on the hub's machine would get the token.

use ureq::http::{Response, Uri, header::AUTHORIZATION};
use ureq::{Body, RequestBuilder, typestate::WithoutBody};

use super::Hub;
use crate::source::{
    SourceError,
    origin::{origin, resolved},
};

/// Redirects of one request: a renamed model, then the place of its bytes, take two.
const REDIRECTS_MAX: usize = 10;

/// Which redirects are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// All.
    All,
    /// Redirects to a path alone, as after a model was renamed. Any other redirect is the answer: it has the ETag of the file,
    /// which the server of the bytes does not know.
    Paths,
}

impl Hub {
    /// The answer to a request, whatever its status; `request` makes the request for an address, or for the first
    /// address where it is given none.
    pub(super) fn send(
        &self,
        file: &str,
        follow: Follow,
        request: impl Fn(Option<&str>) -> RequestBuilder<WithoutBody>,
    ) -> Result<Response<Body>, SourceError> {
        let network = |why: String| self.network(file, why);
        let mut next = request(None);
        for _ in 0..=REDIRECTS_MAX {
            let at = next.uri_ref().cloned();
            let at = at.ok_or_else(|| network("its address is none".to_owned()))?;
            if !self.owns(&at)
                && let Some(headers) = next.headers_mut()
            {
                headers.remove(AUTHORIZATION);
            }
            let next_request = next
                .config()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .build();
            self.tally.request();
            let response = next_request
                .call()
                .map_err(|error| self.network(file, error))?;
            let status = response.status();
            // 304 and 300 are redirections without a place to go on at.
            let Some(place) = response
                .headers()
                .get("location")
                .filter(|_| status.is_redirection())
            else {
                return Ok(response);
            };
            let place = place.to_str().map_err(|error| self.network(file, error))?;
            let to = resolved(&at, place).ok_or_else(|| {
                network(format!(
                    "it sends the request to {place:?}, which is no http address"
                ))
            })?;
            if follow == Follow::Paths && (!place.starts_with('/') || place.starts_with("//")) {
                return Ok(response);
            }
            next = request(Some(&to.to_string()));
        }
        Err(network(format!(
            "it redirects more than {REDIRECTS_MAX} times"
        )))
    }

    /// Whether an address has the origin of the hub.
    fn owns(&self, address: &Uri) -> bool {
        let hub = self.endpoint.parse::<Uri>().ok();
        hub.and_then(|hub| origin(&hub)) == origin(address)
    }
}
