//! HTTP dates (RFC 9110 §5.6.7): written as IMF-fixdate, read in all three forms a recipient must
//! know. Seconds since 1970 in and out; no time zone but GMT exists here.

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const DAY: i64 = 86_400;
/// 9999-12-31T23:59:59Z: the last second that four digits of year can say.
const LAST: i64 = 253_402_300_799;

/// `seconds` after 1970 as `Sun, 06 Nov 1994 08:49:37 GMT`. Moments outside the years 0 to 9999 are
/// moved to the nearest one inside.
pub fn format(seconds: i64) -> String {
    let seconds = seconds.clamp(days_from_civil(0, 1, 1) * DAY, LAST);
    let (days, within) = (seconds.div_euclid(DAY), seconds.rem_euclid(DAY));
    let (year, month, day) = civil_from_days(days);
    let weekday = DAYS[(days + 4).rem_euclid(7) as usize];
    let name = MONTHS[(month - 1) as usize];
    let (hour, minute, second) = (within / 3600, within / 60 % 60, within % 60);
    format!("{weekday}, {day:02} {name} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Seconds after 1970 of an HTTP date in any of the three forms; `None` when it is none.
pub fn parse(text: &str) -> Option<i64> {
    let (weekday, rest) = text.trim().split_once(' ')?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    match (weekday.strip_suffix(','), words.as_slice()) {
        (Some(_), [day, month, year, time, "GMT"]) => civil(year, month, day, time),
        (Some(_), [date, time, "GMT"]) => {
            let mut parts = date.split('-');
            let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
            // RFC 850 has two digits of year. 70 and later cannot be of this century yet: a file's
            // date is of the past.
            let short: u32 = number(year)?;
            let year = if short < 70 { 2000 } else { 1900 } + short;
            let whole = year.to_string();
            (parts.next().is_none() && short < 100).then(|| civil(&whole, month, day, time))?
        }
        (None, [month, day, time, year]) => civil(year, month, day, time),
        _ => None,
    }
}

fn civil(year: &str, month: &str, day: &str, time: &str) -> Option<i64> {
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let (year, day): (u32, u32) = (number(year)?, number(day)?);
    let mut parts = time.split(':');
    let (hour, minute) = (number(parts.next()?)?, number(parts.next()?)?);
    let second = number(parts.next()?)?;
    let days = days_from_civil(i64::from(year), month, i64::from(day));
    let real = civil_from_days(days) == (i64::from(year), month, i64::from(day));
    // Sixty is a leap second.
    if !real || parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(days * DAY + i64::from(hour * 3600 + minute * 60 + second))
}

/// Digits only, four at most: no sign, no space.
fn number(text: &str) -> Option<u32> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

/// The date of a day counted from 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms": years begin in March, so that the leap day is the last one).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil_from_days`].
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_one_moment_are_the_same_moment() {
        let moment = 784_111_777;
        assert_eq!(format(moment), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(moment));
        assert_eq!(parse("Sunday, 06-Nov-94 08:49:37 GMT"), Some(moment));
        assert_eq!(parse("Sun Nov  6 08:49:37 1994"), Some(moment));
    }

    #[test]
    fn every_day_of_four_centuries_survives_the_round_trip() {
        for day in -25_000..122_000 {
            let moment = day * DAY + 45_296;
            assert_eq!(parse(&format(moment)), Some(moment));
        }
    }

    #[test]
    fn leap_days_exist_where_they_do() {
        assert_eq!(format(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert!(parse("Thu, 29 Feb 2024 00:00:00 GMT").is_some());
        assert!(parse("Wed, 29 Feb 2023 00:00:00 GMT").is_none());
        assert!(parse("Mon, 29 Feb 2100 00:00:00 GMT").is_none());
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "now",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, +6 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37:00 GMT",
            "Sun, 06 Nov 99999 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sunday, 06-Nov-94-1 08:49:37 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn moments_beyond_four_digits_of_year_do_not_break_the_form() {
        assert_eq!(format(i64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(format(i64::MIN), "Sat, 01 Jan 0000 00:00:00 GMT");
    }
}
