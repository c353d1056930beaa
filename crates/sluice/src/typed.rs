//! Values as they are typed: lengths of time, rates, counts that make sense.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use workload::range::DurationRange;

/// Highest rate that makes sense, in requests per second.
const RATE_MAX: f64 = 1e7;

/// Refuses options that make no sense together, as one that makes none by itself is refused.
pub(crate) fn refuse(why: &str) -> ! {
    clap::Command::new("sluice").error(clap::error::ErrorKind::ArgumentConflict, why).exit()
}

/// Reads a length of time.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let form = |_| format!("'{text}' is no length of time; write it as 30s or 5m");
    let span: jiff::SignedDuration = text.parse().map_err(form)?;
    Duration::try_from(span).map_err(|_| format!("'{text}' is negative"))
}

/// Reads the address of a port.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| match text.trim_start_matches(':').parse::<u16>() {
        Ok(port) => {
            format!("'{text}' is no address, but a port; write IP:PORT, as in 127.0.0.1:{port}")
        }
        Err(_) => format!("'{text}' is no address; write IP:PORT, as in 127.0.0.1:8080"),
    })
}

/// Reads a length of time that is more than none.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time.is_zero() {
        Err(format!("'{text}' is no time at all; write 30s or 5m"))
    } else {
        Ok(time)
    }
}

/// Reads a length of time, or two as in `2s..6s`.
pub(crate) fn times(text: &str) -> Result<DurationRange, String> {
    let (min, max) = text.split_once("..").unwrap_or((text, text));
    Ok(DurationRange { min: time(min)?, max: time(max)? })
}

/// Reads a rate: a number above 0.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate = number(text)?;
    if rate > 0.0 && rate <= RATE_MAX {
        Ok(rate)
    } else {
        Err(format!("'{text}' is no rate; write requests per second, above 0 and up to {RATE_MAX}"))
    }
}

/// Reads a count of one or more.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    let count: Option<usize> = text.parse().ok().filter(|it| *it > 0);
    count.ok_or_else(|| format!("'{text}' is no whole number above 0"))
}

/// Reads a number of threads.
pub(crate) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let threads = text.parse().ok();
    threads.ok_or_else(|| {
        format!("'{text}' is no whole number above 0; leave it out for one for each core")
    })
}

/// Reads a factor: a number above 0.
pub(crate) fn factor(text: &str) -> Result<f64, String> {
    let factor = number(text)?;
    if factor > 0.0 { Ok(factor) } else { Err(format!("'{text}' is not above 0")) }
}

/// Reads a number of 0 or more.
pub(crate) fn amount(text: &str) -> Result<f64, String> {
    let amount = number(text)?;
    if amount >= 0.0 { Ok(amount) } else { Err(format!("'{text}' is negative")) }
}

fn number(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.trim().parse().ok();
    number.filter(|it| it.is_finite()).ok_or_else(|| format!("'{text}' is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert!(time("-5s").unwrap_err().contains("negative"));
        assert!(time("soon").unwrap_err().contains("30s"));
        assert!(some_time("0s").unwrap_err().contains("no time at all"));
        let (min, max) = (Duration::from_secs(2), Duration::from_secs(6));
        assert_eq!(times("2s..6s"), Ok(DurationRange { min, max }));
    }

    #[test]
    fn addresses_are_read_and_a_port_alone_is_told_apart() {
        assert_eq!(address("[::1]:80"), Ok("[::1]:80".parse().unwrap()));
        assert!(address("20182").unwrap_err().contains("127.0.0.1:20182"));
        assert!(address(":80").unwrap_err().contains("127.0.0.1:80"));
        assert!(address("localhost:80").unwrap_err().contains("IP:PORT"));
        assert!(threads("0").unwrap_err().contains("above 0") && threads("2").is_ok());
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        assert!(rate("0.5").is_ok_and(|it| (it - 0.5).abs() < 1e-12));
        for text in ["NaN", "inf", "-1", "0", "1e300", "", "five"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert!(
            count("0").is_err()
                && count("2") == Ok(2)
                && factor("0").is_err()
                && amount("0").is_ok()
                && amount("-1").is_err()
        );
    }
}
