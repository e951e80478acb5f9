//! Durations, sizes and addresses as people write them.

use std::net::{SocketAddr, ToSocketAddrs};

/// Milliseconds of `250ms`, `1s`, `5m`, `2h`, `7d`, or a bare number of milliseconds.
///
/// # Errors
/// What is allowed.
pub fn parse_duration_ms(text: &str) -> Result<i64, String> {
    const UNITS: &[(&str, i64)] =
        &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let allowed = || "it must be a duration such as 250ms, 1s, 5m, 2h or 7d".to_owned();
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(allowed)?.1,
    };
    let number: i64 = number.parse().map_err(|_| allowed())?;
    number.checked_mul(factor).filter(|ms| *ms >= 0).ok_or_else(allowed)
}

/// Bytes of `64MiB`, `1GB`, `512k`, or a bare number of bytes. `k`, `M`, `G`, `T` and the forms
/// with `iB` are powers of 1,024, those with `B` powers of 1,000.
///
/// # Errors
/// What is allowed.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let allowed = || "it must be a size such as 1048576, 64MiB, 2GiB or 500MB".to_owned();
    let (number, unit) = split_unit(text);
    let unit = unit.to_ascii_lowercase();
    let base: u64 =
        if unit.ends_with('b') && !unit.ends_with("ib") && unit != "b" { 1000 } else { 1024 };
    let exponent = match unit.chars().next() {
        None | Some('b') => 0,
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some(_) => return Err(allowed()),
    };
    if !["", "b", "ib"].contains(&unit.trim_start_matches(['k', 'm', 'g', 't'])) || unit == "ib" {
        return Err(allowed());
    }
    let number: u64 = number.parse().map_err(|_| allowed())?;
    number.checked_mul(base.pow(exponent)).ok_or_else(allowed)
}

/// Bytes for a person: `1.9 GiB`, with one digit after the point from 1 KiB on.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: &[&str] = &["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let place = (bytes.max(1).ilog2() / 10) as usize;
    if place == 0 {
        return format!("{bytes} bytes");
    }
    let tenths = (u128::from(bytes) * 10) >> (10 * place);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[place])
}

/// Milliseconds for a person: `850 ms`, `12.3 s`, `5 min 20 s`, `3 h 5 min`, `2 d 4 h`.
pub fn human_ms(ms: u64) -> String {
    let (seconds, minutes, hours) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{seconds}.{} s", ms % 1_000 / 100),
        60_000..3_600_000 => format!("{minutes} min {} s", seconds % 60),
        3_600_000..86_400_000 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// An address to bind: `127.0.0.1:9092`, `[::1]:9092`, `localhost:9092`, `:9092`.
///
/// # Errors
/// What is allowed.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let allowed = || "it must be an address such as 127.0.0.1:9092".to_owned();
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    let mut found: Vec<SocketAddr> = full.to_socket_addrs().map_err(|_| allowed())?.collect();
    // `localhost` may resolve to ::1 first, where many Kafka clients do not look.
    found.sort_by_key(SocketAddr::is_ipv6);
    found.into_iter().next().ok_or_else(allowed)
}

/// A host and port as clients are told them.
///
/// # Errors
/// What is allowed.
pub fn parse_host_port(text: &str) -> Result<(String, u16), String> {
    let allowed = || "it must be HOST:PORT".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(allowed)?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(allowed)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() { Err(allowed()) } else { Ok((host.to_owned(), port)) }
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_have_units() {
        assert_eq!(parse_duration_ms("1s"), Ok(1_000));
        assert_eq!(parse_duration_ms("250ms"), Ok(250));
        assert_eq!(parse_duration_ms("60000"), Ok(60_000));
        assert_eq!(parse_duration_ms("7d"), Ok(604_800_000));
        for bad in ["", "s", "1w", "-1s", "1.5s", "99999999999999999d"] {
            assert!(parse_duration_ms(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("500MB"), Ok(500_000_000));
        assert_eq!(parse_bytes("2g"), Ok(2 << 30));
        assert_eq!(parse_bytes("17"), Ok(17));
        for bad in ["", "x", "1xb", "-1", "1ib", "99999999999999999t"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_shown_as_people_read_them() {
        let bytes = [0, 1_023, 1_024, 1_536, (2 << 30) - 1, u64::MAX].map(human_bytes);
        let shown = ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "1.9 GiB", "15.9 EiB"];
        assert_eq!(bytes, shown);
        let times = [0, 999, 12_345, 320_000, 11_100_000, 187_200_000].map(human_ms);
        assert_eq!(times, ["0 ms", "999 ms", "12.3 s", "5 min 20 s", "3 h 5 min", "2 d 4 h"]);
    }

    #[test]
    fn addresses_are_checked() {
        assert!(parse_address("127.0.0.1:0").is_ok());
        assert!(parse_address(":9092").unwrap().ip().is_unspecified());
        assert!(parse_address("9092").is_err());
        assert_eq!(parse_host_port("floe:29092"), Ok(("floe".to_owned(), 29092)));
        assert_eq!(parse_host_port("[::1]:5"), Ok(("::1".to_owned(), 5)));
        for bad in ["floe", "floe:", "floe:0", ":5"] {
            assert!(parse_host_port(bad).is_err(), "{bad}");
        }
    }
}
