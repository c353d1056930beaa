//! Writes numbers for what is written with every request.
//!
//! The way through `core::fmt` takes several times the instructions of writing the digits.

/// Digits of the largest number.
const DIGITS_MAX: usize = 20;

/// Appends a whole number.
pub fn push_whole(out: &mut String, value: u64) {
    let mut digits = [b'0'; DIGITS_MAX];
    let used = fill::<10>(&mut digits, value);
    push(out, &digits, used);
}

/// Appends a number in hexadecimal, in at least `least` digits.
pub fn push_hex(out: &mut String, value: u64, least: usize) {
    let mut digits = [b'0'; DIGITS_MAX];
    let used = fill::<16>(&mut digits, value);
    push(out, &digits, used.max(least));
}

/// Appends a number of which `thousandths` are known, with three decimals.
pub fn push_thousandths(out: &mut String, thousandths: u64) {
    push_whole(out, thousandths / 1_000);
    let mut digits = [b'0'; DIGITS_MAX];
    fill::<10>(&mut digits, thousandths % 1_000);
    out.push('.');
    push(out, &digits, 3);
}

/// Writes `value` to that `BASE` at the end of `digits`; returns how many it has.
fn fill<const BASE: u64>(digits: &mut [u8; DIGITS_MAX], mut value: u64) -> usize {
    let mut used = 0_usize;
    for place in digits.iter_mut().rev() {
        // A digit fits.
        let digit = u8::try_from(value % BASE).unwrap_or(0);
        *place = if digit < 10 { b'0' + digit } else { b'a' + (digit - 10) };
        used = used.saturating_add(1);
        value /= BASE;
        if value == 0 {
            break;
        }
    }
    used
}

/// Appends the last `used` digits.
fn push(out: &mut String, digits: &[u8; DIGITS_MAX], used: usize) {
    for digit in digits.get(DIGITS_MAX.saturating_sub(used)..).unwrap_or_default() {
        out.push(char::from(*digit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        for value in [0, 7, 10, 99, 1_000, 65_535, u64::MAX / 10, u64::MAX] {
            let mut out = "at ".to_owned();
            push_whole(&mut out, value);
            assert_eq!(out, format!("at {value}"));
            let mut out = String::new();
            push_thousandths(&mut out, value);
            assert_eq!(out, format!("{}.{:03}", value / 1_000, value % 1_000));
            let mut out = String::new();
            push_hex(&mut out, value, 8);
            assert_eq!(out, format!("{value:08x}"));
        }
    }
}
