//! Reading a file while it is written.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

/// What stands for "all of it" in the place of a length.
const WHOLE: u64 = u64::MAX;

/// What a reader is told of a file: a number of eight bytes, the lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// So many bytes are there.
    Length(u64),
    /// All of it is there.
    Whole,
}

impl Notice {
    pub(crate) fn write(self, to: &mut dyn Write) -> io::Result<()> {
        let number = match self {
            Self::Length(length) => length,
            Self::Whole => WHOLE,
        };
        to.write_all(&number.to_le_bytes())
    }

    pub(crate) fn read(from: &mut dyn Read) -> io::Result<Self> {
        let mut number = [0; 8];
        from.read_exact(&mut number)?;
        Ok(match u64::from_le_bytes(number) {
            WHOLE => Self::Whole,
            length => Self::Length(length),
        })
    }
}

/// A file of which more comes, to be read from the beginning to the end. It fails where the notices end before that.
pub(super) struct Growing<N> {
    file: File,
    notices: N,
    position: u64,
    /// Bytes that are there.
    length: u64,
    is_whole: bool,
}

impl<N: Read> Growing<N> {
    pub(super) fn new(file: File, notices: N) -> Self {
        Self { file, notices, position: 0, length: 0, is_whole: false }
    }

    /// Waits until it is known that more is there, or that no more will come.
    fn wait(&mut self) -> io::Result<()> {
        match Notice::read(&mut self.notices)? {
            Notice::Length(length) => self.length = length,
            Notice::Whole => {
                self.length = self.file.metadata()?.len();
                self.is_whole = true;
            }
        }
        Ok(())
    }
}

impl<N: Read> Read for Growing<N> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position >= self.length {
            if self.is_whole {
                return Ok(0);
            }
            self.wait()?;
        }
        let there = usize::try_from(self.length - self.position).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(there);
        let count = self.file.read_at(&mut buffer[..wanted], self.position)?;
        if count == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8], notices: &[Notice]) -> io::Result<Vec<u8>> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        let mut told = Vec::new();
        for notice in notices {
            notice.write(&mut told).unwrap();
        }
        let mut found = Vec::new();
        Growing::new(file, &told[..]).read_to_end(&mut found).map(|_| found)
    }

    #[test]
    fn all_of_a_file_is_read_and_an_end_that_was_not_told_is_a_failure() {
        use Notice::{Length, Whole};
        for notices in [&[Whole][..], &[Length(0), Length(2), Length(2), Whole], &[Length(5), Whole]] {
            assert_eq!(read(b"hello", notices).unwrap(), b"hello");
        }
        for notices in [&[][..], &[Length(2)], &[Length(5)], &[Length(9), Whole]] {
            assert_eq!(read(b"hello", notices).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(read(b"", &[Whole]).unwrap(), b"");
    }
}
