//! Names of libraries, as their own headers have them.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// What is read of one header or table at most.
const MOST: u64 = 1 << 20;
const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const STRINGS: u64 = 5;
const NAME: u64 = 14;

/// Numbers of `e_machine`, by architecture.
const MACHINES: [(&str, u16); 2] = [("x86_64", 62), ("aarch64", 183)];

/// The name under which programs of this machine load a library (`libcuda.so.1`); `None` if the file is no such library.
pub(crate) fn soname(file: &File) -> Option<String> {
    let header = read(file, 0, 64)?;
    let machine = MACHINES.iter().find(|(name, _)| *name == std::env::consts::ARCH)?.1;
    // 64 bits, little-endian.
    if !header.starts_with(b"\x7fELF\x02\x01") || number(&header, 18, 2)? != u64::from(machine) {
        return None;
    }
    let (offset, size, count) = (number(&header, 32, 8)?, number(&header, 54, 2)?, number(&header, 56, 2)?);
    let table = read(file, offset, size.checked_mul(count)?)?;
    let size = usize::try_from(size).ok().filter(|size| *size >= 56)?;
    let (mut segments, mut dynamic) = (Vec::new(), None);
    for entry in table.chunks_exact(size) {
        let (offset, address, length) = (number(entry, 8, 8)?, number(entry, 16, 8)?, number(entry, 32, 8)?);
        match u32::try_from(number(entry, 0, 4)?).ok()? {
            LOAD => segments.push((address, offset, length)),
            DYNAMIC => dynamic = Some(read(file, offset, length)?),
            _ => {}
        }
    }
    let dynamic = dynamic?;
    let value = |tag: u64| {
        let mut entries = dynamic.chunks_exact(16);
        entries.find(|entry| number(entry, 0, 8) == Some(tag)).and_then(|entry| number(entry, 8, 8))
    };
    let address = value(STRINGS)?.checked_add(value(NAME)?)?;
    let (start, offset, length) = segments
        .into_iter()
        .find(|(start, _, length)| address.checked_sub(*start).is_some_and(|distance| distance < *length))?;
    let distance = address - start;
    let text = read_some(file, offset.checked_add(distance)?, (length - distance).min(256))?;
    let end = text.iter().position(|byte| *byte == 0)?;
    let name = std::str::from_utf8(&text[..end]).ok()?;
    // It becomes the name of a link.
    (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn read(file: &File, offset: u64, length: u64) -> Option<Vec<u8>> {
    if length > MOST {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

/// As `read`, up to the end of the file.
fn read_some(file: &File, offset: u64, length: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    let count = file.read_at(&mut bytes, offset).ok()?;
    bytes.truncate(count);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_say_their_names() {
        let maps = fs_err::read_to_string("/proc/self/maps").unwrap();
        let library =
            maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("libc."));
        let file = fs_err::File::open(library.unwrap()).unwrap().into();
        assert_eq!(soname(&file).as_deref(), Some("libc.so.6"));
    }

    #[test]
    fn what_is_no_library_has_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut whole = fs_err::read("/proc/self/exe").unwrap();
        whole.truncate(4096);
        for cut in [0, 3, 20, 64, 100, 300] {
            fs_err::write(&path, &whole[..cut]).unwrap();
            assert_eq!(soname(&fs_err::File::open(&path).unwrap().into()), None, "{cut}");
        }
    }
}
