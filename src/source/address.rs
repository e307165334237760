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
}
