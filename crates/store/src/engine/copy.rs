//! Files of one image in another, as `COPY` has it. It is all done with the trees: the objects are there already.

use std::collections::{BTreeMap, BTreeSet};

use lamina_ground::Stack;
use lamina_image::Digest;
use lamina_image::patterns::PatternMatcher;

use super::Store;
use super::files::beneath;
use super::image_tree::{ImageTree, Impasse, Place};
use crate::tree::{Entry, Node, Tree, lossy, parent};
use crate::{Committed, Metadata, StoreError};

/// What is copied, and how.
#[derive(Debug, Clone)]
pub struct Copy<'a> {
    /// Paths and patterns of the sources. Of a directory, what is in it is copied.
    pub sources: &'a [String],
    /// Where it goes, absolute. With a slash at its end it is a directory, even if nothing is there yet.
    pub target: &'a str,
    /// The owner and group; `None` leaves them.
    pub owner: Option<(u32, u32)>,
    /// The modes; `None` leaves them.
    pub mode: Option<CopyMode>,
    /// Whether the directories above a source come along, below a `./` in its path where there is one.
    pub parents: bool,
    /// Patterns of what stays behind: of paths below a source that is a directory, or else of its name; with `parents`, of
    /// what is kept of its path.
    pub exclude: &'a [String],
    /// What is at the target already.
    pub onto: Onto<'a>,
}

/// Something that a source names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its path in the image, without leading slash.
    pub path: Vec<u8>,
    /// The file that it is or leads to: a path of which no part is a link.
    pub file: Option<Vec<u8>>,
}

/// How what is copied meets what the image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto<'a> {
    /// Directories are merged, links to directories followed, and a file cannot take the place of a directory.
    Merged,
    /// As archives are unpacked: other kinds of files, and links, give way. These directories, by their paths in the source, are
    /// only those above what the archive has: they stay as the image has them, and links in their place are followed.
    Replaced(&'a BTreeSet<Vec<u8>>),
    /// A directory hides all that is there.
    Hidden,
}

/// Modes of what is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyMode {
    /// These bits.
    Bits(u32),
    /// Changes in the words of `chmod`, for example `u=rwX,go=rX`.
    Words(String),
}

impl CopyMode {
    /// The mode as it is written: in octal digits or in the words of `chmod`. `None` if it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o7777).map(Self::Bits);
        }
        apply(text, 0, false).map(|_| Self::Words(text.to_owned()))
    }

    fn of(&self, former: u32, is_directory: bool) -> u32 {
        match self {
            Self::Bits(bits) => *bits,
            Self::Words(words) => apply(words, former, is_directory).unwrap_or(former),
        }
    }
}

/// A mode after changes in the words of `chmod`.
fn apply(words: &str, former: u32, is_directory: bool) -> Option<u32> {
    let mut mode = former;
    for clause in words.split(',') {
        let at = clause.find(['+', '-', '='])?;
        let (mut who, changes) = (0, &clause[at..]);
        for letter in clause[..at].chars() {
            who |= match letter {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return None,
            };
        }
        let who = if who == 0 { 0o7777 } else { who };
        let mut rest = changes;
        while let Some(operator) = rest.chars().next() {
            let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |end| end + 1);
            let mut bits = 0;
            for letter in rest[1..end].chars() {
                bits |= match letter {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    'X' if is_directory || mode & 0o111 != 0 => 0o111,
                    'X' => 0,
                    's' => 0o6000,
                    't' => 0o1000,
                    'u' => (mode >> 6 & 7) * 0o111,
                    'g' => (mode >> 3 & 7) * 0o111,
                    'o' => (mode & 7) * 0o111,
                    _ => return None,
                };
            }
            mode = match operator {
                '+' => mode | bits & who,
                '-' => mode & !(bits & who),
                _ => mode & !(who & 0o777) | bits & who,
            };
            rest = &rest[end..];
        }
    }
    Some(mode)
}

impl Copy<'_> {
    /// The files as a layer over `onto`.
    pub(super) fn layer(
        &self,
        store: &Store,
        from: &Stack<Digest>,
        onto: &Stack<Digest>,
    ) -> Result<Committed, StoreError> {
        let mut copier = self.copier(store, from, onto)?;
        copier.copy_all()?;
        super::placed::publish(store, &copier.tree()?)
    }

    /// What the sources name, and where it is if it is a file, links followed.
    pub(super) fn named(&self, store: &Store, from: &Stack<Digest>) -> Result<Vec<Named>, StoreError> {
        let mut copier = self.copier(store, from, &Stack::new())?;
        let mut named = Vec::new();
        for source in self.sources {
            let (_, path) = copier.split(source);
            for path in copier.expand(&path)? {
                let (real, place) = copier.resolve(&path)?;
                let file = (place == Place::File).then_some(real);
                named.push(Named { path, file });
            }
        }
        Ok(named)
    }

    fn copier(&self, store: &Store, from: &Stack<Digest>, onto: &Stack<Digest>) -> Result<Copier<'_>, StoreError> {
        let exclude =
            PatternMatcher::new(self.exclude).map_err(|error| StoreError::InvalidFileSet(error.to_string()))?;
        Ok(Copier {
            copy: self,
            exclude,
            from: ImageTree::open(store, from)?,
            onto: ImageTree::open(store, onto)?,
            source: 0,
            base: Vec::new(),
            nodes: BTreeMap::new(),
            same: BTreeMap::new(),
        })
    }
}

struct Copier<'a> {
    copy: &'a Copy<'a>,
    exclude: PatternMatcher,
    from: ImageTree,
    onto: ImageTree,
    /// The number of the source: links between two of them are none here.
    source: usize,
    /// The directory of the source that exclusions are relative to.
    base: Vec<u8>,
    /// What the layer has, by path.
    nodes: BTreeMap<Vec<u8>, Node>,
    /// The names in the source of files that may have several, by their paths here.
    same: BTreeMap<Vec<u8>, SourceName>,
}

/// A name of a file in the source.
struct SourceName {
    /// What is equal for all names of the file below one source.
    file: SourceFile,
    path: Vec<u8>,
}

/// The number of a source, and a layer with a name in it.
type SourceFile = (usize, usize, Vec<u8>);

impl Copier<'_> {
    fn copy_all(&mut self) -> Result<(), StoreError> {
        let mut matched = Vec::new();
        for source in self.copy.sources {
            let (above, path) = self.split(source);
            let found = self.expand(&path)?;
            if found.is_empty() && !has_wildcard(&path) {
                return Err(refused(&format!(
                    "`{source}` is not there: nothing was found at `{}`",
                    lossy(path.as_bytes())
                )));
            }
            matched.extend(found.into_iter().map(|found| (above.clone(), found)));
        }
        let many = matched.len() > 1;
        for (number, (above, source)) in matched.into_iter().enumerate() {
            self.source = number;
            self.copy_one(&above, &source, many)?;
        }
        Ok(())
    }

    /// Where the part of a source begins that is kept with `parents`, and the whole path.
    fn split(&self, source: &str) -> (Vec<u8>, String) {
        let clean = |path: &str| {
            let mut parts: Vec<&str> = Vec::new();
            for part in path.split('/') {
                match part {
                    "" | "." => {}
                    ".." => drop(parts.pop()),
                    part => parts.push(part),
                }
            }
            parts.join("/")
        };
        let pivot = source.find("/./").filter(|_| self.copy.parents);
        (pivot.map(|at| clean(&source[..at]).into_bytes()).unwrap_or_default(), clean(source))
    }

    /// The paths that a pattern names, or the path itself if it is there.
    fn expand(&mut self, pattern: &str) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut found: Vec<Vec<u8>> = vec![Vec::new()];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            for directory in &found {
                if part == "**" && self.copy.parents {
                    next.push(directory.clone());
                    self.add_directories(directory, &mut next);
                } else if has_wildcard(part) {
                    let escaped = if part.starts_with('!') { format!("\\{part}") } else { part.to_owned() };
                    let matcher = PatternMatcher::new(&[escaped]).map_err(|error| refused(&error.to_string()))?;
                    let (resolved, _) = self.resolve(directory)?;
                    let names = self.from.names(&resolved).into_iter();
                    next.extend(names.filter(|name| matcher.matches(name)).map(|name| beneath(directory, &name)));
                } else {
                    let path = beneath(directory, part.as_bytes());
                    if self.resolve(&path)?.1 != Place::Absent || self.link(&path)?.is_some() {
                        next.push(path);
                    }
                }
            }
            found = next;
        }
        Ok(found)
    }

    fn add_directories(&mut self, directory: &[u8], found: &mut Vec<Vec<u8>>) {
        for name in self.from.names(directory) {
            let path = beneath(directory, &name);
            if matches!(self.from.node_at(&path), Some(Node::Directory { .. })) {
                found.push(path.clone());
                self.add_directories(&path, found);
            }
        }
    }

    /// The link at a path, which may lead nowhere.
    fn link(&mut self, path: &[u8]) -> Result<Option<Node>, StoreError> {
        let (directory, _) = self.resolve(parent(path))?;
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        Ok(self.from.node_at(&beneath(&directory, name)).filter(|node| matches!(node, Node::Symlink { .. })))
    }

    fn resolve(&mut self, path: &[u8]) -> Result<(Vec<u8>, Place), StoreError> {
        match self.from.resolve(path) {
            // Nothing is below a file.
            Err(Impasse::File(_)) => Ok((path.to_vec(), Place::Absent)),
            outcome => outcome.map_err(|impasse| refused(&impasse.to_string())),
        }
    }

    fn copy_one(&mut self, above: &[u8], source: &[u8], many: bool) -> Result<(), StoreError> {
        let (real, place) = self.resolve(source)?;
        let is_directory = matches!(place, Place::Directory(_));
        if place == Place::Absent {
            return Err(refused(&format!("the link `{}` leads nowhere", lossy(source))));
        }
        let given = self.copy.target;
        let ends_as_directory = given.ends_with('/') || given.ends_with("/.");
        let (target, there) = self.onto.resolve(given.as_bytes()).map_err(|impasse| refused(&impasse.to_string()))?;
        if there == Place::File && (is_directory || ends_as_directory || many) {
            return Err(refused(&format!("`{given}` is a file in the image, and something would go into it")));
        }
        let is_into = ends_as_directory || many || matches!(there, Place::Directory(_));
        let relative = below(above, source);
        let name = source.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        self.base = match (self.copy.parents, is_directory) {
            (true, _) => self.resolve(above)?.0,
            (false, true) => real.clone(),
            (false, false) => parent(&real).to_vec(),
        };
        let place = match (self.copy.parents, is_directory) {
            (true, _) => {
                self.copy_parents(above, relative, &target)?;
                self.below(&target, relative)?
            }
            (false, false) if is_into => self.below(&target, name)?,
            (false, _) => target,
        };
        if is_directory {
            let is_hidden = self.copy.onto == Onto::Hidden;
            let is_whole = self.copy.parents || is_hidden;
            if !is_whole {
                // The source's own mode and owner are not those of a new directory for what is in it.
                self.make_directories(&place);
            }
            self.copy_directory(&real, &place, is_whole)?;
            if let Some(Node::Directory { opaque, .. }) = self.nodes.get_mut(&place) {
                *opaque = is_hidden;
            }
            Ok(())
        } else {
            self.copy_file(&real, &place)
        }
    }

    fn is_excluded(&self, source: &[u8]) -> bool {
        self.exclude.matches(below(&self.base, source))
    }

    /// The directories above a source, as they are there.
    fn copy_parents(&mut self, above: &[u8], relative: &[u8], target: &[u8]) -> Result<(), StoreError> {
        let mut path = Vec::new();
        let parts: Vec<&[u8]> = relative.split(|byte| *byte == b'/').collect();
        for part in &parts[..parts.len().saturating_sub(1)] {
            path = beneath(&path, part);
            let (real, _) = self.resolve(&beneath(above, &path))?;
            let place = self.below(target, &path)?;
            if let Some(Node::Directory { meta, .. }) = self.from.node_at(&real) {
                self.put_directory(&place, meta, true);
            }
        }
        Ok(())
    }

    /// A path below a directory of the image, of which links are followed.
    fn below(&mut self, directory: &[u8], path: &[u8]) -> Result<Vec<u8>, StoreError> {
        let whole = beneath(directory, path);
        if let Ok((resolved, Place::Directory(_))) = self.onto.resolve(&whole) {
            return Ok(resolved);
        }
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let above = beneath(directory, parent(path));
        let (above, _) = self.onto.resolve(&above).map_err(|impasse| refused(&impasse.to_string()))?;
        Ok(beneath(&above, name))
    }

    fn copy_directory(&mut self, source: &[u8], target: &[u8], replaces: bool) -> Result<(), StoreError> {
        let Some(Node::Directory { meta, .. }) = self.from.node_at(source) else { return Ok(()) };
        self.put_directory(target, meta, replaces);
        for name in self.from.names(source) {
            let from = beneath(source, &name);
            let node = self.from.node_at(&from);
            let is_directory = matches!(node, Some(Node::Directory { .. }));
            let is_excluded = self.is_excluded(&from);
            if is_excluded && (!is_directory || self.exclude.prunes()) {
                continue;
            }
            let onto = beneath(target, &name);
            if is_directory {
                let (onto, replaces) = match self.copy.onto {
                    Onto::Replaced(implied) if !implied.contains(&from) => (onto, true),
                    Onto::Replaced(_) => (self.below(target, &name)?, false),
                    // A link to a directory stays, and what is copied goes where it leads.
                    Onto::Merged | Onto::Hidden => (self.below(target, &name)?, true),
                };
                if self.onto.at(&onto) == Place::File && self.copy.onto == Onto::Merged {
                    return Err(refused(&format!("`{}` is a file in the image, not a directory", lossy(&onto))));
                }
                let before = self.nodes.len();
                self.copy_directory(&from, &onto, replaces)?;
                if is_excluded && self.nodes.len() == before + 1 {
                    self.nodes.remove(&onto);
                }
            } else {
                self.copy_file(&from, &onto)?;
            }
        }
        Ok(())
    }

    fn copy_file(&mut self, source: &[u8], target: &[u8]) -> Result<(), StoreError> {
        if self.is_excluded(source) {
            return Ok(());
        }
        let replaces = matches!(self.copy.onto, Onto::Replaced(_));
        if !replaces && matches!(self.onto.at(target), Place::Directory(_))
            || matches!(self.nodes.get(target), Some(Node::Directory { .. }))
        {
            return Err(refused(&format!("`{}` is a directory in the image, not a file", lossy(target))));
        }
        if target.is_empty() {
            return Err(refused("a file cannot take the place of `/`"));
        }
        let Some(node) = self.from.node_at(source) else { return Ok(()) };
        let node = match node {
            Node::File { meta, size, digest } => {
                if let Some((layer, name)) = self.from.link_at(source) {
                    let file = (self.source, layer, name);
                    self.same.insert(target.to_vec(), SourceName { file, path: source.to_vec() });
                }
                Node::File { meta: self.changed(meta, false), size, digest }
            }
            Node::Fifo { meta } => Node::Fifo { meta: self.changed(meta, false) },
            Node::Symlink { meta, target } => {
                Node::Symlink { meta: Metadata { mode: 0o777, ..self.changed(meta, false) }, target }
            }
            other => other,
        };
        self.make_directories(parent(target));
        self.nodes.insert(target.to_vec(), node);
        Ok(())
    }

    fn changed(&self, meta: Metadata, is_directory: bool) -> Metadata {
        // An archive says itself whose its files are.
        let owner = self.copy.owner.filter(|_| !matches!(self.copy.onto, Onto::Replaced(_)));
        let (uid, gid) = owner.unwrap_or((meta.uid, meta.gid));
        let mode = self.copy.mode.as_ref().map_or(meta.mode, |mode| mode.of(meta.mode, is_directory));
        Metadata { mode, uid, gid, ..meta }
    }

    /// A directory as it is in the source, unless it is there already and stays as it is.
    fn put_directory(&mut self, path: &[u8], meta: Metadata, replaces: bool) {
        let is_there = self.nodes.contains_key(path) || matches!(self.onto.at(path), Place::Directory(_));
        if is_there && !replaces {
            return self.make_directories(path);
        }
        self.make_directories(parent(path));
        let meta = self.changed(meta, true);
        self.nodes.insert(path.to_vec(), Node::Directory { meta, opaque: false });
    }

    /// A directory and those above it: as the image has them, or new.
    fn make_directories(&mut self, path: &[u8]) {
        let mut path = path;
        while !self.nodes.contains_key(path) {
            let meta = if let Place::Directory(meta) = self.onto.at(path) {
                meta
            } else {
                let (uid, gid) = self.copy.owner.unwrap_or_default();
                Metadata { uid, gid, ..Metadata::root_owned(0o755) }
            };
            self.nodes.insert(path.to_vec(), Node::Directory { meta, opaque: false });
            path = parent(path);
        }
    }

    /// What was put together, with files of several names as such.
    fn tree(mut self) -> Result<Tree, StoreError> {
        self.make_directories(b"");
        let nodes = self.nodes;
        self.same.retain(|path, _| matches!(nodes.get(path), Some(Node::File { .. })));
        // Of each file, the names in the source and the first one here.
        let mut files: BTreeMap<&SourceFile, (BTreeSet<&[u8]>, &[u8])> = BTreeMap::new();
        for (path, name) in &self.same {
            files.entry(&name.file).or_insert_with(|| (BTreeSet::new(), path)).0.insert(&name.path);
        }
        let link = |path: &[u8]| {
            let (names, first) = files.get(&self.same.get(path)?.file)?;
            // One name that is copied twice makes two files.
            (names.len() > 1 && *first != path).then(|| first.to_vec())
        };
        let entry = |(path, node): (Vec<u8>, Node)| match link(&path) {
            Some(target) => Entry { path, node: Node::HardLink { target } },
            None => Entry { path, node },
        };
        let entries: Vec<Entry> = nodes.into_iter().map(entry).collect();
        Tree::new(entries).map_err(|error| refused(&error.to_string()))
    }
}

/// A path relative to a directory that it is below.
fn below<'a>(directory: &[u8], path: &'a [u8]) -> &'a [u8] {
    let rest = path.strip_prefix(directory).unwrap_or(path);
    rest.strip_prefix(b"/").unwrap_or(rest)
}

fn has_wildcard(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

fn refused(why: &str) -> StoreError {
    StoreError::InvalidFileSet(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_chmod_reads_them() {
        for (text, former, is_directory, mode) in [
            ("755", 0o600, false, 0o755),
            ("0644", 0o600, true, 0o644),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("go=u-w", 0o640, true, 0o644),
            ("a+x", 0o644, false, 0o755),
            ("+t,g+s", 0o755, true, 0o3755),
            ("o-rwx", 0o757, true, 0o750),
        ] {
            assert_eq!(CopyMode::parse(text).unwrap().of(former, is_directory), mode, "{text}");
        }
        for text in ["", "9", "77777", "u", "u+q", "z=r"] {
            assert_eq!(CopyMode::parse(text), None, "{text}");
        }
    }
}
