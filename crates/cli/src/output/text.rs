//! Text for narrow places: cleaned lines, clipped to a width; durations and sizes for people.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// One printable line: escape sequences and control characters removed, tabs as spaces, and of a line that was
/// overwritten with carriage returns only what a terminal would show last.
pub(crate) fn clean(line: &str) -> String {
    let visible = line.trim_end_matches(['\r', '\n']).rsplit('\r').next().unwrap_or_default();
    let mut cleaned = String::with_capacity(visible.len());
    let mut characters = visible.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => skip_escape(&mut characters),
            '\t' | '\n' => cleaned.push(' '),
            control if control.is_control() => {}
            other => cleaned.push(other),
        }
    }
    cleaned
}

/// Skips the rest of an escape sequence: a control sequence up to its final byte, an operating system command up to
/// its terminator, or else one character.
fn skip_escape(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match characters.next() {
        Some('[') => {
            characters.find(|character| ('@'..='~').contains(character));
        }
        Some(']') => {
            while let Some(character) = characters.next() {
                if character == '\u{7}' || (character == '\u{1b}' && characters.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
}

/// `text` in at most `width` columns; an ellipsis stands for what had to go.
pub(crate) fn clip(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut clipped = String::new();
    let mut used = 0;
    for character in text.chars() {
        let columns = character.width().unwrap_or(0);
        if used + columns + 1 > width {
            break;
        }
        used += columns;
        clipped.push(character);
    }
    if width > 0 {
        clipped.push('…');
    }
    clipped
}

/// `text` clipped to `width` columns and filled up with spaces.
pub(crate) fn fit(text: &str, width: usize) -> String {
    let mut fitted = clip(text, width);
    fitted.extend(std::iter::repeat_n(' ', width.saturating_sub(fitted.width())));
    fitted
}

/// A duration: `0.4s`, `12.3s`, `2m 05s`.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1}s");
    }
    let whole = std::time::Duration::try_from_secs_f64(seconds.round()).unwrap_or_default().as_secs();
    format!("{}m {:02}s", whole / 60, whole % 60)
}

/// A size: `0 B`, `512 B`, `31.2 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A time in the past: `just now`, `5 min ago`, `3 h ago`, `12 days ago`.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => "just now".to_owned(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cleaned() {
        for (raw, cleaned) in [
            ("plain", "plain"),
            ("\u{1b}[1;31mred\u{1b}[0m text", "red text"),
            (" 10%\r 50%\r100%\r\n", "100%"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;target\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("a\tb\u{8}c", "a bc"),
            ("cut \u{1b}[", "cut "),
        ] {
            assert_eq!(clean(raw), cleaned, "{raw:?}");
        }
    }

    #[test]
    fn text_is_clipped_by_columns() {
        for (text, width, clipped) in
            [("short", 5, "short"), ("longer", 5, "long…"), ("日本語", 5, "日本…"), ("日本語", 4, "日…"), ("x", 0, "")]
        {
            assert_eq!(clip(text, width), clipped);
        }
        assert_eq!(fit("ab", 4), "ab  ");
    }

    #[test]
    fn amounts_are_readable() {
        for (amount, shown) in [(0.04, "0.0s"), (59.94, "59.9s"), (59.96, "1m 00s"), (125.0, "2m 05s")] {
            assert_eq!(seconds(amount), shown);
        }
        for (amount, shown) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_048_575, "1.0 MiB"), (1 << 30, "1.0 GiB")]
        {
            assert_eq!(bytes(amount), shown);
        }
    }

    #[test]
    fn ages_are_readable() {
        for (seconds, shown) in
            [(0, "just now"), (59, "just now"), (60, "1 min ago"), (7_199, "1 h ago"), (172_800, "2 days ago")]
        {
            assert_eq!(age(seconds), shown);
        }
    }
}
