//! Addresses of redirects: where they lead, and whether credentials may follow.

use ureq::http::Uri;

/// Scheme, host and port: credentials are sent to one of these and nowhere else.
pub(super) fn origin(address: &Uri) -> Option<(String, String, u16)> {
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
pub(super) fn resolved(at: &Uri, place: &str) -> Option<Uri> {
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
