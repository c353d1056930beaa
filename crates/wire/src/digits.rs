//! Writes numbers for what is written with every request.
//!
//! The way through `core::fmt` takes several times the instructions of writing the digits.

/// The numbers below a thousand, each in three digits: a piece of a text needs no check that it is one.
const TRIPLES: &str = match std::str::from_utf8(&TRIPLES_BYTES) {
    Ok(text) => text,
    Err(_) => "",
};

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would say so")]
const TRIPLES_BYTES: [u8; 3_000] = {
    let mut bytes = [b'0'; 3_000];
    let (mut at, mut digits) = (0, 0);
    while at < 1_000 {
        let number = [at / 100, at / 10 % 10, at % 10];
        while digits < 3 * (at + 1) {
            bytes[digits] = b"0123456789"[number[digits % 3]];
            digits += 1;
        }
        at += 1;
    }
    bytes
};

/// Digits of the largest number in hexadecimal.
const HEX_DIGITS_MAX: usize = 16;

/// Appends a whole number.
pub fn push_whole(out: &mut String, value: u64) {
    whole(&mut |it| out.push_str(it), value);
}

/// The same to bytes.
pub fn extend_whole(out: &mut Vec<u8>, value: u64) {
    whole(&mut |it| out.extend_from_slice(it.as_bytes()), value);
}

fn whole(push: &mut impl FnMut(&str), value: u64) {
    if value < 1_000 {
        let skipped = if value < 10 { 2 } else { usize::from(value < 100) };
        push(triple(value).get(skipped..).unwrap_or_default());
    } else {
        whole(push, value / 1_000);
        push(triple(value % 1_000));
    }
}

/// Appends a number in hexadecimal, in at least `least` digits.
pub fn push_hex(out: &mut String, value: u64, least: usize) {
    let used = HEX_DIGITS_MAX.saturating_sub(value.leading_zeros() as usize / 4).max(1);
    for _ in HEX_DIGITS_MAX..least {
        out.push('0');
    }
    for place in (0..used.max(least.min(HEX_DIGITS_MAX))).rev() {
        // A digit fits.
        let digit = u32::try_from((value >> (4 * place)) & 0xf).unwrap_or(0);
        out.push(char::from_digit(digit, 16).unwrap_or('0'));
    }
}

/// Appends a number of which `thousandths` are known, with three decimals.
pub fn push_thousandths(out: &mut String, thousandths: u64) {
    push_whole(out, thousandths / 1_000);
    out.push('.');
    out.push_str(triple(thousandths % 1_000));
}

/// Appends the millionths of a second that are beyond a whole one, in six digits.
pub fn push_millionths(out: &mut String, millionths: u32) {
    let millionths = u64::from(millionths);
    out.push_str(triple(millionths / 1_000 % 1_000));
    out.push_str(triple(millionths % 1_000));
}

/// A number below a thousand in three digits.
fn triple(value: u64) -> &'static str {
    let from = usize::try_from(value).unwrap_or(0).saturating_mul(3);
    TRIPLES.get(from..from.saturating_add(3)).unwrap_or_default()
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
            let mut out = b"at ".to_vec();
            extend_whole(&mut out, value);
            assert_eq!(out, format!("at {value}").into_bytes());
            let mut out = String::new();
            push_thousandths(&mut out, value);
            assert_eq!(out, format!("{}.{:03}", value / 1_000, value % 1_000));
            let mut out = String::new();
            push_hex(&mut out, value, 8);
            assert_eq!(out, format!("{value:08x}"));
            let mut out = String::new();
            let millionths = u32::try_from(value % 1_000_000).unwrap();
            push_millionths(&mut out, millionths);
            assert_eq!(out, format!("{millionths:06}"));
        }
        for value in 0..2_048 {
            let (mut whole, mut hex) = (String::new(), String::new());
            push_whole(&mut whole, value);
            push_hex(&mut hex, value, 1);
            assert_eq!((whole, hex), (value.to_string(), format!("{value:x}")));
        }
        let mut out = String::new();
        push_hex(&mut out, 7, 20);
        assert_eq!(out, format!("{:020x}", 7));
    }
}
