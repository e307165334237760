//! Which names of models are addresses, and of which kind.

/// Schemes of object stores.
const STORES: [&str; 8] = ["s3", "s3a", "gs", "az", "adl", "azure", "abfs", "abfss"];
/// The hosts of the hub, wherever a mirror of it is asked: their addresses are names of models.
const HUB: [&str; 3] = ["huggingface.co", "www.huggingface.co", "hf.co"];

/// What an address says that a model is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressKind<'a> {
    /// A path after `file://`.
    Path(&'a str),
    /// An object store, or a server of plain HTTP.
    Remote,
    /// The hub, to be read without a copy on disk: `hf://`.
    Hub,
}

/// The place that `name` is an address of; `None` for paths, and for names and pages of models of the hub.
pub(crate) fn address_kind(name: &str) -> Option<AddressKind<'_>> {
    let (scheme, rest) = name.trim().split_once("://")?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match scheme.to_ascii_lowercase().as_str() {
        "file" => Some(AddressKind::Path(rest)),
        "hf" => Some(AddressKind::Hub),
        "http" | "https" => {
            (!HUB.contains(&host) && !is_endpoint(host)).then_some(AddressKind::Remote)
        }
        scheme => STORES.contains(&scheme).then_some(AddressKind::Remote),
    }
}

/// Whether the hub is asked at this host.
fn is_endpoint(host: &str) -> bool {
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_default();
    let endpoint = endpoint.split_once("://").map_or("", |(_, rest)| rest);
    endpoint.split('/').next() == Some(host)
}

/// The name of a model as messages and files may have it: of an address, which need not parse, without user, password, query and
/// fragment; other names as they are.
///
/// ```
/// use firebox::source::without_secrets;
///
/// assert_eq!(without_secrets("https://me:word@host/llama?sig=1"), "https://host/llama");
/// ```
#[must_use]
pub fn without_secrets(given: &str) -> String {
    let Some((scheme, rest)) = given.split_once("://") else {
        return given.to_owned();
    };
    let scheme = scheme.trim_start();
    let rest = rest.trim_end().split(['?', '#']).next().unwrap_or_default();
    let is_port = |port: &str| port.chars().all(|digit| digit.is_ascii_digit());
    let is_host = |host: &str| {
        let (_, named) = host.rsplit_once('@').unwrap_or(("", host));
        named
            .rsplit_once([':', ']'])
            .is_none_or(|(_, port)| is_port(port))
    };
    let is_named = |scheme: &str| scheme.ends_with("hf") || scheme.contains("abfs");
    let (host, path) = match rest.find('/') {
        Some(slash) if is_host(&rest[..slash]) => rest.split_at(slash),
        // A password may have a slash, which looks like the end of a host.
        _ => (rest, ""),
    };
    let shown = match host.rsplit_once('@') {
        // The container of an account is no user, and neither is the name of a model with its revision.
        Some((name, _)) if !name.contains([':', '@']) && is_named(scheme) => host,
        Some((_, named)) => named,
        None => host,
    };
    format!("{scheme}://{shown}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a path or a page of the hub that is taken for a store, and a scheme that nobody reads.
    #[test]
    fn addresses_are_told_from_names() {
        for (name, expected) in [
            ("s3://bucket/a", Some(AddressKind::Remote)),
            ("S3A://bucket/a", Some(AddressKind::Remote)),
            ("gs://bucket", Some(AddressKind::Remote)),
            (
                "abfss://c@a.dfs.core.windows.net/x",
                Some(AddressKind::Remote),
            ),
            ("https://host/folder", Some(AddressKind::Remote)),
            ("file:///folder", Some(AddressKind::Path("/folder"))),
            ("hf://org/model@v1", Some(AddressKind::Hub)),
            ("https://huggingface.co/org/model", None),
            ("org/model", None),
            ("/folder", None),
            ("C:\\s3", None),
            ("ftp://host/a", None),
        ] {
            assert_eq!(address_kind(name), expected, "{name}");
        }
    }

    /// Catches a password with an `@`, and a path that is cut where it has the letters of an address.
    #[test]
    fn names_are_shown_without_what_is_secret_in_an_address() {
        for (name, shown) in [
            ("htps://user:p@ss@host/a?sig=x#y", "htps://host/a"),
            ("https://user:word@host:81/a@b", "https://host:81/a@b"),
            ("https://user:p/ss@host/a", "https://host/a"),
            ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
            (
                "abfss://c@acc.dfs.core.windows.net/a",
                "abfss://c@acc.dfs.core.windows.net/a",
            ),
            (
                "abfss://c:key@acc.dfs.core.windows.net/a",
                "abfss://acc.dfs.core.windows.net/a",
            ),
            ("hf://org/name@v1", "hf://org/name@v1"),
            ("hf://name@v1", "hf://name@v1"),
            ("s3://bucket", "s3://bucket"),
            ("https://host?sig=x", "https://host"),
            ("a folder?/with #/letters@", "a folder?/with #/letters@"),
        ] {
            assert_eq!(without_secrets(name), shown);
        }
    }
}
