//! Names that somebody may have meant.

/// The known names that are most like one, at most three, best first.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut rated: Vec<_> = known.map(|other| (distance(name, other), other)).collect();
    rated.retain(|(distance, other)| *distance <= 1 + name.len() / 3 || other.contains(name) || name.contains(other));
    rated.sort_unstable();
    rated.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

/// How many characters have to be changed, added or left out to make one name of another.
#[must_use]
pub fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, character) in one.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (place, theirs) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(character != theirs);
            diagonal = row[place + 1];
            row[place + 1] = changed.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_alike_come_best_first() {
        let known = ["trainer", "train", "demo", "web"];
        assert_eq!(nearest("trainr", known.into_iter()), ["train", "trainer"]);
        assert!(nearest("something", known.into_iter()).is_empty());
    }
}
