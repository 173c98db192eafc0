//! The outer format of `.deb` files: an `ar` archive of two compressed tar archives.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Take};

use lamina_store::JobError;

use super::malformed;

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER_LENGTH: usize = 60;
/// Members of a package: `debian-binary`, `control.tar.*`, `data.tar.*`, and perhaps a few more.
const MOST_MEMBERS: usize = 64;

/// A member of a package, by its place in the file.
#[derive(Debug, Clone)]
struct Member {
    name: String,
    offset: u64,
    size: u64,
}

/// An opened package.
#[derive(Debug)]
pub(crate) struct Deb {
    /// The package's name, for messages.
    name: String,
    file: File,
    members: Vec<Member>,
}

impl Deb {
    /// Reads where the members are.
    pub(crate) fn open(name: &str, mut file: File) -> Result<Self, JobError> {
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic).map_err(|error| malformed(name, error))?;
        if &magic != MAGIC {
            return Err(malformed(name, "it is no Debian package"));
        }
        let mut members = Vec::new();
        let mut offset = MAGIC.len() as u64;
        while offset < length && members.len() < MOST_MEMBERS {
            file.seek(SeekFrom::Start(offset))?;
            let mut header = [0; HEADER_LENGTH];
            file.read_exact(&mut header).map_err(|error| malformed(name, error))?;
            let member = member(&header, offset).ok_or_else(|| malformed(name, "a member's header makes no sense"))?;
            let end = member.offset + member.size;
            if end > length {
                return Err(malformed(name, format!("its member `{}` is cut off", member.name)));
            }
            offset = end + (end & 1);
            members.push(member);
        }
        if members.first().is_none_or(|first| first.name != "debian-binary") {
            return Err(malformed(name, "it does not begin with `debian-binary`"));
        }
        Ok(Self { name: name.into(), file, members })
    }

    /// The tar archive `control` or `data`, unpacked.
    pub(crate) fn tar(&mut self, which: &str) -> Result<Box<dyn Read + '_>, JobError> {
        let prefix = format!("{which}.tar");
        let member = self
            .members
            .iter()
            .find(|member| member.name.starts_with(&prefix))
            .cloned()
            .ok_or_else(|| malformed(&self.name, format!("it has no `{prefix}`")))?;
        self.file.seek(SeekFrom::Start(member.offset))?;
        let reader: Take<&mut File> = (&mut self.file).take(member.size);
        Ok(match &member.name[prefix.len()..] {
            "" => Box::new(reader),
            ".gz" => Box::new(flate2::read::MultiGzDecoder::new(reader)),
            ".xz" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(reader)),
            ".zst" => Box::new(zstd::stream::read::Decoder::new(reader)?),
            other => return Err(malformed(&self.name, format!("the compression `{other}` is not known"))),
        })
    }
}

fn member(header: &[u8; HEADER_LENGTH], offset: u64) -> Option<Member> {
    if &header[58..] != b"`\n" {
        return None;
    }
    let name = std::str::from_utf8(&header[..16]).ok()?.trim_end().trim_end_matches('/');
    let size = std::str::from_utf8(&header[48..58]).ok()?.trim_end().parse().ok()?;
    Some(Member { name: name.into(), offset: offset + HEADER_LENGTH as u64, size })
}
