//! Putting the environment's prefix in the place of the one that a package was built for.

use memchr::memmem::Finder;

/// A text with another prefix.
pub(crate) fn replace_in_text(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let finder = Finder::new(from);
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut done = 0;
    for found in finder.find_iter(bytes) {
        replaced.extend_from_slice(&bytes[done..found]);
        replaced.extend_from_slice(to);
        done = found + from.len();
    }
    replaced.extend_from_slice(&bytes[done..]);
    replaced
}

/// A binary file with another prefix: what is behind it in the same C string moves up, and zeros fill its end, so that
/// everything else stays where it is. `None` if the prefix is too long.
pub(crate) fn replace_in_binary(bytes: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    if to.len() > from.len() {
        return None;
    }
    let finder = Finder::new(from);
    let mut replaced = bytes.to_vec();
    let mut position = 0;
    while let Some(found) = finder.find(&bytes[position..]).map(|found| position + found) {
        let end = memchr::memchr(0, &bytes[found..]).map_or(bytes.len(), |length| found + length);
        let mut string = replace_in_text(&bytes[found..end], from, to);
        string.resize(end - found, 0);
        replaced[found..end].copy_from_slice(&string);
        position = end;
    }
    Some(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: &[u8] = b"/build/placehold_placehold";
    const TO: &[u8] = b"/opt/conda";

    #[test]
    fn texts_get_shorter() {
        let text = b"#!/build/placehold_placehold/bin/python\nx=/build/placehold_placehold\n";
        assert_eq!(replace_in_text(text, FROM, TO), b"#!/opt/conda/bin/python\nx=/opt/conda\n");
        assert_eq!(replace_in_text(b"nothing", FROM, TO), b"nothing");
    }

    #[test]
    fn binaries_keep_their_length_and_the_places_of_strings() {
        let bytes = [b"\x7fELF\0a:", FROM, b"/lib:", FROM, b"/share\0next\0", FROM].concat();
        let replaced = replace_in_binary(&bytes, FROM, TO).unwrap();
        assert_eq!(replaced.len(), bytes.len());
        let strings: Vec<_> = replaced.split(|byte| *byte == 0).filter(|string| !string.is_empty()).collect();
        assert_eq!(strings, [&b"\x7fELF"[..], b"a:/opt/conda/lib:/opt/conda/share", b"next", b"/opt/conda"]);
        let place = |bytes: &[u8]| Finder::new(b"next").find(bytes);
        assert_eq!(place(&replaced), place(&bytes));
        assert_eq!(replace_in_binary(&bytes, TO, FROM), None);
    }
}
