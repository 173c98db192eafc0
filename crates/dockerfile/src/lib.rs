//! Dockerfiles as typed instructions, and the words in them as `BuildKit` reads them.
//!
//! This crate is pure text. [`Dockerfile::parse`] knows the lines, flags and forms of instructions; what `$VARIABLE`
//! means where an instruction stands is known later, so words stay as they are written until [`Words::expand`].
//!
//! `parse-dockerfile` was looked at: it takes quotes and escapes away while it parses, and so does not tell `'$A'` from
//! `$A`, and it splits words at quotes, which `BuildKit` does only in `ENV`, `LABEL` and `ARG`.

mod instruction;
mod lines;
mod options;
mod parse;
mod words;

pub use instruction::{Argument, Command, Document, Health, Instruction, Kind, Options, Transfer};
pub use options::{Bind, Cache, Made, MountError, RunMount, Secret, Sharing, Tmpfs, duration};
pub use words::{WordError, Words};

/// A Dockerfile, or some lines of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// The instructions, in order.
    pub instructions: Vec<Instruction>,
    /// The character that takes the next one as it is, and at the end of a line continues it.
    pub escape: char,
}

impl Dockerfile {
    /// Reads a Dockerfile.
    ///
    /// # Errors
    /// The first line that is none of a Dockerfile.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let lines::Lines { escape, instructions } = lines::split(text)?;
        let instructions = instructions.iter().map(|line| parse::instruction(line, escape));
        Ok(Self { instructions: instructions.collect::<Result<_, _>>()?, escape })
    }
}

/// A line is none of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// The line's number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What is wrong with it, and what to do.
    pub message: String,
}
