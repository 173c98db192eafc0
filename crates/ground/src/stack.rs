//! Things that lie on one another.

use serde::{Deserialize, Serialize};

/// Things that lie on one another: the layers of an image, their views, what is put on top of them. It is written down
/// bottom first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stack<T> {
    bottom_up: Vec<T>,
}

impl<T> Stack<T> {
    /// Nothing at all.
    #[must_use]
    pub const fn new() -> Self {
        Self { bottom_up: Vec::new() }
    }

    /// Of which the first one lies at the bottom.
    pub fn from_bottom_up(things: impl IntoIterator<Item = T>) -> Self {
        Self { bottom_up: things.into_iter().collect() }
    }

    /// Of which the first one lies on top.
    pub fn from_top_down(things: impl IntoIterator<Item = T>) -> Self {
        let mut stack = Self::from_bottom_up(things);
        stack.bottom_up.reverse();
        stack
    }

    /// All of them, from the bottom to the top.
    #[must_use]
    pub fn bottom_up(&self) -> &[T] {
        &self.bottom_up
    }

    /// All of them, from the top to the bottom.
    #[must_use]
    pub fn top_down(&self) -> impl ExactSizeIterator<Item = &T> {
        self.bottom_up.iter().rev()
    }

    /// The lowest one.
    #[must_use]
    pub fn bottom(&self) -> Option<&T> {
        self.bottom_up.first()
    }

    /// The uppermost one.
    #[must_use]
    pub fn top(&self) -> Option<&T> {
        self.bottom_up.last()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bottom_up.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bottom_up.is_empty()
    }

    /// Puts one on top.
    pub fn put(&mut self, thing: T) {
        self.bottom_up.push(thing);
    }

    /// What these become, in the same order.
    pub fn map<U>(&self, become_of: impl FnMut(&T) -> U) -> Stack<U> {
        Stack { bottom_up: self.bottom_up.iter().map(become_of).collect() }
    }
}

impl<T: Clone> Stack<T> {
    /// Puts all of another stack on top.
    pub fn put_all(&mut self, upper: &Self) {
        self.bottom_up.extend_from_slice(&upper.bottom_up);
    }

    /// These, with all of another stack on top.
    #[must_use]
    pub fn under(&self, upper: &Self) -> Self {
        let mut whole = self.clone();
        whole.put_all(upper);
        whole
    }
}

impl<T> Default for Stack<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_on_top_is_first_from_there_and_last_when_written() {
        let mut image = Stack::from_bottom_up(["base", "packages"]);
        image.put("source");
        let files = Stack::from_top_down(["delta", "whole"]);
        let container = image.under(&files);
        assert_eq!(container.top_down().collect::<Vec<_>>(), [&"delta", &"whole", &"source", &"packages", &"base"]);
        assert_eq!((container.bottom(), container.top(), container.len()), (Some(&"base"), Some(&"delta"), 5));
        assert_eq!(serde_json::to_string(&files).unwrap(), r#"["whole","delta"]"#);
        let lengths: Stack<usize> = container.map(|name| name.len());
        assert_eq!(lengths.bottom_up(), [4, 8, 6, 5, 5]);
    }
}
