//! The order of Debian's version numbers.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::str::Bytes;

/// Compares two versions: epoch, then upstream version, then revision.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let (left, right) = (split(left), split(right));
    left.0.cmp(&right.0).then_with(|| compare_part(left.1, right.1)).then_with(|| compare_part(left.2, right.2))
}

fn split(version: &str) -> (u64, &str, &str) {
    let (epoch, rest) = match version.split_once(':') {
        Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
        None => (0, version),
    };
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// Alternates between runs without digits, compared with letters first and `~` before everything, and numbers.
fn compare_part(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.bytes().peekable(), right.bytes().peekable());
    while left.peek().is_some() || right.peek().is_some() {
        loop {
            let (one, other) = (text_weight(&mut left), text_weight(&mut right));
            if one != other {
                return one.cmp(&other);
            }
            if one == 0 {
                break;
            }
        }
        let order = number(&mut left).cmp(&number(&mut right));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// Takes a byte that is no digit; 0 at a digit or the end.
fn text_weight(bytes: &mut Peekable<Bytes<'_>>) -> i32 {
    match bytes.next_if(|byte| !byte.is_ascii_digit()) {
        None => 0,
        Some(b'~') => -1,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(byte),
        Some(byte) => i32::from(byte) + 256,
    }
}

fn number(bytes: &mut Peekable<Bytes<'_>>) -> u128 {
    let mut value = 0_u128;
    while let Some(digit) = bytes.next_if(u8::is_ascii_digit) {
        value = value.saturating_mul(10).saturating_add(u128::from(digit - b'0'));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_order() {
        let ordered = [
            "0~~",
            "0~",
            "0",
            "0a",
            "0+1",
            "1.0~rc1-1",
            "1.0-1",
            "1.0-1+b1",
            "1.0-1.1",
            "1.0-2",
            "1.0a-1",
            "1.2-1",
            "1.10-1",
            "1:0.1-1",
        ];
        for (index, left) in ordered.iter().enumerate() {
            for (other, right) in ordered.iter().enumerate() {
                assert_eq!(compare(left, right), index.cmp(&other), "{left} {right}");
            }
        }
        assert_eq!(compare("1.0", "1.0-0"), Ordering::Equal);
        assert_eq!(compare("1.01", "1.1"), Ordering::Equal);
        assert_eq!(compare("0:1-1", "1-1"), Ordering::Equal);
    }
}
