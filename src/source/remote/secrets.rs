//! Texts of other programs, without what is secret.

use core::fmt;

/// What must not be printed.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<String>);

/// Shorter values are words such as `true`, of which no text can be kept free.
const LEAST: usize = 6;

impl Secrets {
    /// Adds a secret.
    pub(super) fn add(&mut self, secret: &str) {
        let secret = secret.trim();
        if secret.len() >= LEAST {
            self.0.push(secret.to_owned());
        }
    }

    /// The text without secrets, and without the queries of addresses, which may be signatures.
    pub(super) fn without(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            text = text.replace(secret, "***");
        }
        let mut shown = String::with_capacity(text.len());
        let mut in_address = false;
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            if rest.starts_with("://") {
                in_address = true;
            }
            if first.is_whitespace() || matches!(first, '"' | '\'' | '<' | '>') {
                in_address = false;
            }
            if in_address && first == '?' {
                let end =
                    rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>'));
                rest = &rest[end.unwrap_or(rest.len())..];
                in_address = false;
                continue;
            }
            shown.push(first);
            rest = &rest[first.len_utf8()..];
        }
        shown
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a signature in an address that nobody knew to be secret.
    #[test]
    fn secrets_and_queries_are_taken_out_of_texts() {
        let mut secrets = Secrets::default();
        secrets.add("MARKED-KEY");
        secrets.add("true");
        let text =
            "GET https://h/a?sig=x&y=z failed for MARKED-KEY: is it true? (\"http://h/b?t\")";
        assert_eq!(
            secrets.without(text),
            "GET https://h/a failed for ***: is it true? (\"http://h/b\")"
        );
    }
}
