//! How long a server asks to be left alone.

use std::time::{Duration, SystemTime};

use ureq::http::HeaderMap;

/// The wait that an answer asks for: `Retry-After` in seconds or as a date, or `ratelimit: "api";r=0;t=55` of the Hugging Face hub.
pub(super) fn asked(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(after) = text("retry-after") {
        return match after.parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => {
                let date = httpdate::parse_http_date(after).ok()?;
                Some(date.duration_since(now).unwrap_or_default())
            }
        };
    }
    let mut left = text("ratelimit")?.split(';');
    let seconds: u64 = left.find_map(|part| part.trim().strip_prefix("t=")?.parse().ok())?;
    Some(Duration::from_secs(seconds.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a date that is taken for nothing, and one of the past that is waited for.
    #[test]
    fn waits_are_seconds_dates_or_limits_of_the_hub() {
        // 1994-11-06 08:49:37, the example of RFC 9110, 5.6.7.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (name, value, seconds) in [
            ("retry-after", "7", Some(7)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT", Some(3)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("retry-after", "soon", None),
            ("ratelimit", "\"api\";r=0;t=55", Some(56)),
            ("date", "7", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            let wait = asked(&headers, now).map(|wait| wait.as_secs());
            assert_eq!(wait, seconds, "{name}: {value}");
        }
    }
}
