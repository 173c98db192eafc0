//! Records of POSIX archives' extended headers. The `tar` crate takes a line's end for the end of a record, but values of
//! attributes are any bytes, and only a record's own length says where it ends.

/// Bytes of the blocks that archives consist of.
const BLOCK: usize = 512;
/// What a header says is behind it: records for the next entry.
const RECORDS: u8 = b'x';
/// The same for names that are too long, as GNU's `tar` writes them.
const LONG: [u8; 2] = [b'L', b'K'];

/// A name and a value.
pub(crate) type Record = (Vec<u8>, Vec<u8>);

/// The records before an entry, from the headers that were read on the way to it.
pub(crate) fn records(mut headers: &[u8]) -> Result<Vec<Record>, &'static str> {
    const CUT: &str = "an extended header ends in its middle";
    let mut found = Vec::new();
    while headers.len() >= BLOCK {
        let (header, rest) = headers.split_at(BLOCK);
        let kind = header[156];
        if kind != RECORDS && !LONG.contains(&kind) {
            break;
        }
        let size = tar::Header::from_byte_slice(header).entry_size().map_err(|_| "an extended header has no length")?;
        let size = usize::try_from(size).map_err(|_| CUT)?;
        let (contents, rest) = rest.split_at_checked(size).ok_or(CUT)?;
        if kind == RECORDS {
            found.extend(read(contents).ok_or("malformed pax extension")?);
        }
        headers = rest.get((BLOCK - size % BLOCK) % BLOCK..).ok_or(CUT)?;
    }
    Ok(found)
}

/// Reads records: `length name=value`, and a line's end.
fn read(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    // Some programs fill up what is left with zeros.
    while !bytes.is_empty() && bytes[0] != 0 {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        bytes = rest;
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u8, contents: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(contents.len() as u64);
        header.set_cksum();
        let padding = vec![0; (BLOCK - contents.len() % BLOCK) % BLOCK];
        [header.as_bytes(), contents, &padding].concat()
    }

    #[test]
    fn values_are_any_bytes() {
        let contents = b"27 SCHILY.xattr.user.a=1\n2\n11 path=ab\n";
        let headers = [header(b'L', b"name"), header(b'x', contents), header(b'0', b"")].concat();
        let expected = [(&b"SCHILY.xattr.user.a"[..], &b"1\n2"[..]), (b"path", b"ab")];
        let found = records(&headers).unwrap();
        assert_eq!(found.iter().map(|(name, value)| (&name[..], &value[..])).collect::<Vec<_>>(), expected);
        assert_eq!(records(&header(b'0', b"x")).unwrap(), []);
    }

    #[test]
    fn broken_records_are_refused() {
        for contents in [&b"9 a=b\n"[..], b"x a=b\n", b"6 ab\n", b"0 a=b\n", b"6 a=bc", b"99999999999999999999 a=b\n"] {
            assert!(records(&header(b'x', contents)).is_err(), "{contents:?}");
        }
        assert!(records(&header(b'x', b"6 a=b\n")[..515]).is_err());
    }
}
