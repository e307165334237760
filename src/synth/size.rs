//! Sizes as people write them.

/// Text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SizeError {
    /// It does not begin with a number.
    #[error("{text:?} is not a size: write a number and a unit, such as 2GiB, 500MB or 1048576")]
    NotANumber {
        /// The text.
        text: String,
    },

    /// The number is followed by something else than a unit. `G` alone is refused on purpose: half the
    /// world's tools mean 10^9 by it, the other half 2^30.
    #[error(
        "{text:?}: {unit:?} is not a unit; there are B, kB, MB, GB, TB (powers of 1000) and \
         KiB, MiB, GiB, TiB (powers of 1024)"
    )]
    UnknownUnit {
        /// The text.
        text: String,
        /// What follows the number.
        unit: String,
    },

    /// It does not fit in 64 bits.
    #[error("{text:?} is more than {max} bytes", max = u64::MAX)]
    TooLarge {
        /// The text.
        text: String,
    },
}

/// Reads a size in bytes: `2GiB`, `1.5 GiB`, `500MB`, or plain bytes. Units are read whatever their
/// case; a fraction of a byte is dropped.
///
/// ```
/// use firebox::synth::parse_size;
///
/// assert_eq!(parse_size("1.5KiB"), Ok(1536));
/// assert_eq!(parse_size("2 GB"), Ok(2_000_000_000));
/// assert!(parse_size("2G").is_err());
/// ```
///
/// # Errors
///
/// [`SizeError`] quotes the text and says what it should look like.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim();
    let number_len = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(number_len);
    let unit = unit.trim();

    let not_a_number = || SizeError::NotANumber {
        text: text.to_owned(),
    };
    let too_large = || SizeError::TooLarge {
        text: text.to_owned(),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') {
        return Err(not_a_number());
    }
    let bytes_per_unit: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u64.pow(2),
        "gb" => 1000_u64.pow(3),
        "tb" => 1000_u64.pow(4),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => {
            return Err(SizeError::UnknownUnit {
                text: text.to_owned(),
                unit: unit.to_owned(),
            });
        }
    };
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let whole_bytes = whole.checked_mul(bytes_per_unit).ok_or_else(too_large)?;
    // Digits past the 18th are far less than a byte of any unit, and 18 of them cannot overflow.
    let fraction = &fraction[..fraction.len().min(18)];
    let fraction_bytes = if fraction.is_empty() {
        0
    } else {
        let digits: u128 = fraction.parse().map_err(|_| not_a_number())?;
        let bytes = digits * u128::from(bytes_per_unit) / 10_u128.pow(fraction.len() as u32);
        u64::try_from(bytes).map_err(|_| too_large())?
    };
    whole_bytes
        .checked_add(fraction_bytes)
        .ok_or_else(too_large)
}
