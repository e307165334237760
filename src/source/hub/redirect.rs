//! Redirects, followed by hand: the token goes to the origin of the hub (scheme, host and port) and nowhere else.
//!
//! `ureq` compares hosts and ignores ports, so another server on the hub's machine would get the token.

use ureq::http::{Response, Uri, header::AUTHORIZATION};
use ureq::{Body, RequestBuilder, typestate::WithoutBody};

use super::Hub;
use crate::source::SourceError;

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

/// Scheme, host and port.
fn origin(address: &Uri) -> Option<(String, String, u16)> {
    let scheme = address.scheme_str()?.to_ascii_lowercase();
    let port = match (address.port_u16(), scheme.as_str()) {
        (Some(port), _) => port,
        (None, "http") => 80,
        (None, "https") => 443,
        (None, _) => return None,
    };
    Some((scheme, address.host()?.to_ascii_lowercase(), port))
}

/// The address that `place` means, seen from `at`; `None` unless its scheme is `http` or `https`.
fn resolved(at: &Uri, place: &str) -> Option<Uri> {
    let (scheme, authority) = (at.scheme_str()?, at.authority()?);
    let absolute = if place.contains("://") {
        place.to_owned()
    } else if place.starts_with("//") {
        format!("{scheme}:{place}")
    } else if place.starts_with('/') {
        format!("{scheme}://{authority}{place}")
    } else {
        let folder = at.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{place}")
    };
    let to: Uri = absolute.parse().ok()?;
    matches!(to.scheme_str(), Some("http" | "https")).then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By RFC 3986, 5.2. Catches a place that leaves the host without the token being taken off.
    #[test]
    fn places_are_seen_from_the_address_that_names_them() {
        let at: Uri = "https://hub.example/a/b?c=d".parse().unwrap();
        for (place, expected) in [
            ("/x", Some("https://hub.example/x")),
            ("x", Some("https://hub.example/a/x")),
            ("//other.example/x", Some("https://other.example/x")),
            ("http://other.example/x", Some("http://other.example/x")),
            ("file:///etc/passwd", None),
            ("ftp://other.example/x", None),
        ] {
            let found = resolved(&at, place).map(|to| to.to_string());
            assert_eq!(found.as_deref(), expected, "{place}");
        }
    }

    /// Catches a port that is ignored, and a default port that is taken for another.
    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |address: &str| origin(&address.parse().unwrap());
        assert_eq!(
            origin("https://Hub.example/x"),
            origin("https://hub.example:443/y")
        );
        assert_ne!(
            origin("https://hub.example/x"),
            origin("https://hub.example:8443/x")
        );
        assert_ne!(
            origin("https://hub.example/x"),
            origin("http://hub.example/x")
        );
        assert_eq!(origin("/x"), None);
    }
}
