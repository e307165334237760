//! How much of a memory a load may take.

use core::{fmt, str::FromStr};

use super::size::Bytes;

/// A part of a memory: reads and prints `8.00 GiB` or `80%`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    /// This many bytes.
    Bytes(u64),
    /// This share of the memory, above 0 and at most 1.
    Share(f64),
}

/// A budget that could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a budget; write a size such as 8GiB, or a share such as 80%, at most 100%")]
pub struct BudgetError(String);

impl Budget {
    /// Bytes, of a memory of `total`. `None` for a share of a memory of unknown size.
    pub fn resolve(self, total: Option<u64>) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Share(share) => total.map(|total| (total as f64 * share) as u64),
        }
    }
}

impl FromStr for Budget {
    type Err = BudgetError;

    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let error = || BudgetError(text.to_owned());
        match text.trim().strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.trim().parse().map_err(|_| error())?;
                let fits = percent > 0.0 && percent <= 100.0;
                fits.then_some(Self::Share(percent / 100.0))
                    .ok_or_else(error)
            }
            None => match text.parse() {
                Ok(Bytes(bytes)) if bytes > 0 => Ok(Self::Bytes(bytes)),
                _ => Err(error()),
            },
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => Bytes(*bytes).fmt(f),
            Self::Share(share) => write!(f, "{}%", share * 100.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would catch a share that is taken for bytes, or the other way round.
    #[test]
    fn sizes_and_shares_are_read_and_resolved() {
        let total = Some(1000);
        for (text, bytes, printed) in [
            ("2KiB", Some(2048), "2.00 KiB"),
            ("80%", Some(800), "80%"),
            (" 12.5 % ", Some(125), "12.5%"),
            ("100%", Some(1000), "100%"),
            ("1", Some(1), "1 B"),
        ] {
            let budget: Budget = text.parse().expect(text);
            assert_eq!(budget.resolve(total), bytes, "{text}");
            assert_eq!(budget.to_string(), printed);
        }
        let share: Budget = "50%".parse().expect("a share");
        assert_eq!(share.resolve(None), None);
        let bytes: Budget = "50".parse().expect("a size");
        assert_eq!(bytes.resolve(None), Some(50));
    }

    #[test]
    fn what_is_no_budget_is_refused() {
        for text in [
            "", "%", "0%", "-1%", "101%", "NaN%", "inf%", "0", "8 GiB%", "many",
        ] {
            let error = text.parse::<Budget>().expect_err(text).to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
