//! `strftime` for chat templates, which write today's date into the prompt.
//!
//! The standard library knows no time zones, so the date is that of UTC; transformers takes the local
//! one. A date library for one line of a template was not worth its weight.

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Writes `seconds` since 1970 in UTC as C's `strftime` does in the C locale.
///
/// # Errors
///
/// The directive that is not known.
pub(in crate::text) fn strftime(format: &str, seconds: u64) -> Result<String, String> {
    let days = seconds / 86_400;
    let (year, month, day, day_of_year) = civil(days);
    let [hour, minute, second] = [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60];
    // 1970-01-01 was a Thursday.
    let weekday = DAYS[(days % 7 + 4) as usize % 7];
    let month_name = MONTHS[month as usize - 1];
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // glibc's `%-d`: without padding.
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        let number = |value: u64, width: usize| {
            let width = if padded { width } else { 0 };
            format!("{value:0width$}")
        };
        out += &match directive {
            Some('Y') => number(year, 4),
            Some('y') => number(year % 100, 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('e') if padded => format!("{day:2}"),
            Some('e') => day.to_string(),
            Some('j') => number(day_of_year, 3),
            Some('H') => number(hour, 2),
            Some('I') => number(hour12, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('F') => format!("{year:04}-{month:02}-{day:02}"),
            Some('D' | 'x') => format!("{month:02}/{day:02}/{:02}", year % 100),
            Some('T' | 'X') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('R') => format!("{hour:02}:{minute:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => return Err(format!("%{other}")),
            None => return Err("%".to_owned()),
        };
    }
    Ok(out)
}

/// Year, month, day and day of the year, the last three counted from 1, of a day since 1970-01-01.
///
/// Years are counted from March, so that the leap day comes last (Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms", `civil_from_days`; without its negative half, as this clock starts in 1970).
fn civil(days: u64) -> (u64, u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_march_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_march_year + 2) / 153;
    let day = day_of_march_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let day_of_year = if month <= 2 {
        day_of_march_year - 306 + 1
    } else {
        day_of_march_year + 1 + 59 + u64::from(leap)
    };
    (year, month, day, day_of_year)
}

#[cfg(test)]
mod tests {
    use super::strftime;

    /// Seconds and renderings as Python's `datetime.fromtimestamp(s, UTC).strftime` gives them. A wrong
    /// leap rule fails on the days around February's end, a wrong weekday on any.
    #[test]
    fn dates_are_those_of_python() {
        let format = "%a %A %d %b %B %Y %y %m %j %H:%M:%S %I %p %-d %e %F %%";
        let cases = [
            (
                0,
                "Thu Thursday 01 Jan January 1970 70 01 001 00:00:00 12 AM 1  1 1970-01-01 %",
            ),
            (
                951_782_400,
                "Tue Tuesday 29 Feb February 2000 00 02 060 00:00:00 12 AM 29 29 2000-02-29 %",
            ),
            (
                1_709_251_199,
                "Thu Thursday 29 Feb February 2024 24 02 060 23:59:59 11 PM 29 29 2024-02-29 %",
            ),
            (
                1_709_251_200,
                "Fri Friday 01 Mar March 2024 24 03 061 00:00:00 12 AM 1  1 2024-03-01 %",
            ),
            (
                1_735_689_599,
                "Tue Tuesday 31 Dec December 2024 24 12 366 23:59:59 11 PM 31 31 2024-12-31 %",
            ),
            (
                1_751_373_296,
                "Tue Tuesday 01 Jul July 2025 25 07 182 12:34:56 12 PM 1  1 2025-07-01 %",
            ),
            (
                4_107_542_400,
                "Mon Monday 01 Mar March 2100 00 03 060 00:00:00 12 AM 1  1 2100-03-01 %",
            ),
        ];
        for (seconds, expected) in cases {
            assert_eq!(strftime(format, seconds).as_deref(), Ok(expected));
        }
    }

    /// An unknown directive copied through would put `%Q` into a prompt without a word.
    #[test]
    fn unknown_directives_are_named() {
        assert_eq!(strftime("%Q", 0), Err("%Q".to_owned()));
        assert_eq!(strftime("100%", 0), Err("%".to_owned()));
    }
}
