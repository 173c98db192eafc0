//! Logins of the user's netrc file, for installers that run where that file is not.

use std::collections::BTreeSet;

use crate::settings::{own_directories, variable};

/// A netrc file with what the user's own says about the hosts that stand in the addresses of some texts; `None` if that is
/// nothing.
#[must_use]
pub fn netrc_for<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let (home, _) = own_directories();
    let own = variable("NETRC").map_or_else(|| vec![home.join(".netrc"), home.join("_netrc")], |path| vec![path]);
    // One that cannot be read says nothing, as for the installers.
    let contents = own.iter().find_map(|path| fs_err::read_to_string(path).ok())?;
    let hosts: BTreeSet<&str> = texts.into_iter().flat_map(hosts).collect();
    select(&contents, &hosts)
}

/// The hosts in the addresses of a text.
fn hosts(text: &str) -> impl Iterator<Item = &str> {
    text.split("://").skip(1).filter_map(|rest| {
        let end = rest.find(|character: char| character.is_whitespace() || "/?#\"'<>,".contains(character));
        let place = &rest[..end.unwrap_or(rest.len())];
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
        place.split(':').next().filter(|host| !host.is_empty())
    })
}

/// What the file says about one machine, or about all others.
struct Entry<'a> {
    machine: Option<&'a str>,
    /// Its words, as they stand there.
    words: Vec<&'a str>,
}

fn select(contents: &str, hosts: &BTreeSet<&str>) -> Option<String> {
    let entries = entries(contents);
    let of = |machine: Option<&str>| entries.iter().find(|entry| entry.machine == machine && !entry.words.is_empty());
    let lines = hosts.iter().filter_map(|host| {
        let entry = of(Some(host)).or_else(|| of(None))?;
        Some(format!("machine {host} {}\n", entry.words.join(" ")))
    });
    Some(lines.collect::<String>()).filter(|text| !text.is_empty())
}

fn entries(contents: &str) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let mut rest = contents;
    while let Some(word) = next(&mut rest) {
        match word {
            "machine" => entries.push(Entry { machine: next(&mut rest), words: Vec::new() }),
            "default" => entries.push(Entry { machine: None, words: Vec::new() }),
            "macdef" => rest = rest.split_once("\n\n").map_or("", |(_, rest)| rest),
            "login" | "user" | "account" | "password" => {
                if let (Some(value), Some(entry)) = (next(&mut rest), entries.last_mut()) {
                    entry.words.extend([word, value]);
                }
            }
            _ if word.starts_with('#') => rest = rest.split_once('\n').map_or("", |(_, rest)| rest),
            _ => {}
        }
    }
    entries
}

/// The next word, with its quotes.
fn next<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let text = rest.trim_start_matches(|character: char| character.is_ascii_whitespace());
    let mut is_escaped = false;
    let is_quoted = text.starts_with('"');
    let end = text.char_indices().skip(1).find_map(|(position, character)| {
        let ends = if is_quoted { character == '"' && !is_escaped } else { character.is_ascii_whitespace() };
        is_escaped = character == '\\' && !is_escaped;
        ends.then_some(position + usize::from(is_quoted))
    });
    let (word, after) = text.split_at(end.unwrap_or(text.len()));
    *rest = after;
    (!word.is_empty()).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_hosts_of_addresses_count() {
        let found: Vec<_> =
            hosts("-i 'https://me:secret@one.invalid:8080/simple' x@git+https://two.invalid\nno/three.invalid")
                .collect();
        assert_eq!(found, ["one.invalid", "two.invalid"]);
    }

    #[test]
    fn logins_of_these_hosts_are_taken() {
        let text = "# machine no.invalid login a password b\nmachine one.invalid\n  login me # is no comment here\n  password \"a \\\" b\"\n\
                    macdef init\nmachine two.invalid login x password y\n\nmachine three.invalid login z password #w\n";
        let selected = |hosts: &[&str]| select(text, &hosts.iter().copied().collect());
        insta::assert_snapshot!(selected(&["one.invalid", "other.invalid"]).unwrap(), @r#"machine one.invalid login me password "a \" b""#);
        insta::assert_snapshot!(selected(&["three.invalid"]).unwrap(), @"machine three.invalid login z password #w");
        assert_eq!(selected(&["no.invalid", "two.invalid"]), None);
        let with_default = select("default login anonymous password me\n", &["one.invalid"].into());
        assert_eq!(with_default.unwrap(), "machine one.invalid login anonymous password me\n");
    }
}
