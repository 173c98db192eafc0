//! Colours, where the reader wants them.

use std::fmt;

use lamina_ground::EnvVars;
use rustix::fd::AsFd;

/// The colours in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "1;31",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Cyan => "36",
        }
    }
}

/// Whether text is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Palette {
    coloured: bool,
}

impl Palette {
    /// No colours.
    pub(crate) const PLAIN: Self = Self { coloured: false };

    /// Colours if `stream` is a terminal that knows them and `NO_COLOR` is unset or empty.
    pub(crate) fn detect(stream: impl AsFd) -> Self {
        let refused = std::env::var_os(EnvVars::NO_COLOR).is_some_and(|value| !value.is_empty());
        Self { coloured: !refused && is_capable_terminal(stream) }
    }

    /// `text` in a tone.
    pub(crate) fn paint<T: fmt::Display>(self, tone: Tone, text: T) -> Painted<T> {
        Painted { tone: self.coloured.then_some(tone), text }
    }
}

/// Whether `stream` is a terminal that can be drawn on.
pub(crate) fn is_capable_terminal(stream: impl AsFd) -> bool {
    rustix::termios::isatty(stream) && std::env::var_os(EnvVars::TERM).is_none_or(|term| term != "dumb")
}

/// Text in its tone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Painted<T> {
    tone: Option<Tone>,
    text: T,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tone {
            Some(tone) => write!(formatter, "\u{1b}[{}m{}\u{1b}[0m", tone.code(), self.text),
            None => self.text.fmt(formatter),
        }
    }
}
