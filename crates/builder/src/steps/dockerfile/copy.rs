//! `COPY` and `ADD`.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::SystemTime;

use lamina_dockerfile::{Document, Transfer};
use lamina_ground::Stack;
use lamina_image::patterns::PatternMatcher;
use lamina_image::{
    Digest, DockerfileContext, DockerfileCopy, DockerfileStep, FileEntry, FileKind, FileSet, Ignore, KeyMaterial,
};
use lamina_store::{Committed, Context, Copy, CopyMode, Named, Onto, StoreError};

use super::{absolute, add, expand_each, expand_one, ids, mistake, variables};
use crate::BuildError;
use crate::log::StepLog;
use crate::steps::{Made, Planning, Recipe, StepContext, StepError};

/// Grows when files are copied in another way.
const VERSION: u32 = 3;

/// A transfer whose words are expanded.
pub(super) struct CopyPlan {
    pub(super) step: DockerfileStep,
    pub(super) transfer: Transfer,
    pub(super) target: String,
    /// What the sources name of the local directory, unless a stage has them.
    local: Option<ContextLayers>,
    is_add: bool,
}

pub(super) fn plan(
    step: &DockerfileStep,
    copy: &DockerfileCopy,
    planning: &Planning<'_>,
    material: &mut KeyMaterial,
) -> Result<Box<dyn Recipe>, BuildError> {
    let state = planning.parent;
    let mut transfer = copy.transfer.clone();
    transfer.sources = expand_each(step, state, &transfer.sources)?;
    transfer.destination = expand_one(step, state, &transfer.destination)?;
    transfer.options.exclude = expand_each(step, state, &transfer.options.exclude)?;
    for word in [&mut transfer.options.chown, &mut transfer.options.chmod, &mut transfer.options.checksum] {
        *word = word.as_deref().map(|word| expand_one(step, state, word)).transpose()?;
    }
    let variables = variables(state);
    let words = lamina_dockerfile::Words { variables: &variables, escape: step.escape };
    for Document { content, expand, .. } in &mut transfer.documents {
        if *expand {
            *content = words.expand_text(content).map_err(|error| mistake(step, error.to_string()))?;
        }
    }
    if transfer.sources.iter().chain([&transfer.destination]).any(String::is_empty) {
        return Err(mistake(step, "one of its paths is empty: a variable in it is empty or not set"));
    }
    let target = absolute(&transfer.destination, state);
    let is_directory = target.ends_with('/') || target.ends_with("/.");
    if transfer.sources.len() + transfer.documents.len() > 1 && !is_directory {
        return Err(mistake(
            step,
            format!("several files go into a directory: write `{}/` as the last word", transfer.destination),
        ));
    }
    if let Some(mode) = transfer.options.chmod.as_deref().filter(|mode| CopyMode::parse(mode).is_none()) {
        return Err(mistake(step, format!("`{mode}` is no mode: write octal digits or what `chmod` takes")));
    }
    if let Some(checksum) = &transfer.options.checksum {
        check_checksum(checksum, &transfer.sources).map_err(|message| mistake(step, message))?;
    }
    material.add("kind", if copy.is_add { "add" } else { "copy" });
    material.add("version", VERSION);
    let described =
        serde_json::to_value((&transfer, &target)).map_err(|error| BuildError::failed(std::io::Error::from(error)))?;
    material.add_exact("transfer", described);
    if is_apart(&transfer) {
        material.add("onto", "nothing");
    }
    if copy.is_add && transfer.sources.iter().any(|source| add::is_url(source)) {
        material.add("times", "of servers");
    }
    // Once they were kept as they are.
    if transfer.options.unpack == Some(true) && transfer.sources.iter().any(|source| add::is_url(source)) {
        material.add("downloads", "unpacked");
    }
    let local: Vec<String> =
        transfer.sources.iter().filter(|source| !(copy.is_add && add::is_url(source))).cloned().collect();
    let mut layer = None;
    if transfer.options.from.is_none() && !local.is_empty() {
        let made = context_layer(step, copy.context.as_ref(), &local, planning)?;
        material.add("files", made.content());
        layer = Some(made);
    }
    Ok(Box::new(CopyPlan { step: step.clone(), transfer, target, local: layer, is_add: copy.is_add }))
}

/// Whether what is below is not looked at: directories on the way are new ones then, also in place of links. As `BuildKit`
/// has it, not with modes.
fn is_apart(transfer: &Transfer) -> bool {
    transfer.options.link && transfer.options.chmod.is_none()
}

/// Whether a checksum is one, and there is nothing but downloads that it could be of.
fn check_checksum(checksum: &str, sources: &[String]) -> Result<(), String> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if !checksum.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(is_digit)) {
        return Err(format!("`{checksum}` is no checksum: write `sha256:` and 64 hexadecimal digits"));
    }
    match sources.iter().find(|source| !add::is_url(source)) {
        Some(source) => Err(format!("`--checksum` is for downloads, and `{source}` is a local file: remove it")),
        None => Ok(()),
    }
}

/// What is taken of a local directory.
pub(super) struct ContextLayers {
    /// What is in the directory itself.
    own: Committed,
    /// Files that were given beside it, which lie over it.
    given: Option<Committed>,
}

impl ContextLayers {
    /// What all of it holds, as the material of a key.
    pub(super) fn content(&self) -> String {
        let given = self.given.iter().map(|layer| format!("+{}", layer.content.hex()));
        std::iter::once(self.own.content.hex()).chain(given).collect()
    }

    pub(super) fn layers(&self) -> Stack<Digest> {
        Stack::from_bottom_up(std::iter::once(&self.own).chain(&self.given).map(|layer| layer.digest))
    }
}

/// What sources name of the local directory.
pub(super) fn context_layer(
    step: &DockerfileStep,
    context: Option<&DockerfileContext>,
    sources: &[String],
    planning: &Planning<'_>,
) -> Result<ContextLayers, BuildError> {
    let context = context.ok_or_else(|| mistake(step, "there is no local directory to take files from"))?;
    let is_missing = |source: &&String| {
        leads_out(source) && !has_pattern(source) && !Path::new(&context.source).join(inside(source)).exists()
    };
    if let Some(source) = sources.iter().find(is_missing) {
        return Err(mistake(
            step,
            format!("`{source}` is outside of `{}`, which `COPY` takes files from: set `context_dir`", context.source),
        ));
    }
    // What leads out of it ends at it, as with Docker.
    let sources: Vec<String> = sources.iter().map(|source| inside(source)).collect();
    let sources = &sources[..];
    if let Some(source) =
        sources.iter().find(|source| PatternMatcher::new(&[clean(source).trim_start_matches('!')]).is_err())
    {
        let message = format!("`{source}` is no pattern: a `[` needs its `]`, and a `\\` something after it");
        return Err(mistake(step, message));
    }
    for source in sources {
        if let Some(kind) = kind_of_no_image(&Path::new(&context.source).join(clean(source))) {
            return Err(mistake(
                step,
                format!("`{source}` is a {kind}, which no image holds: copy what it stands for"),
            ));
        }
    }
    let (mut sources, mut entries) = (sources.to_vec(), Vec::new());
    for (name, file) in &context.files {
        let meant = sources.iter().any(|source| is_meant(source, name));
        sources.retain(|source| clean(source) != clean(name));
        if meant {
            let (source, target) = (file.clone(), format!("/{}", clean(name)));
            entries.push(FileEntry { source, target, kind: FileKind::File, ignore: None });
        }
    }
    let root = Path::new(&context.source);
    if let Some(source) = sources.iter().find(|source| is_left_out(root, context.ignore.as_ref(), source)) {
        let message = format!(
            "`{source}` is in `{}`, but left out by its ignore file or `ignore=`: take the pattern away, or add \
             `!{source}` as the last one",
            context.source
        );
        return Err(mistake(step, message));
    }
    let own = planning.local.context(&Context { root, ignore: context.ignore.as_ref(), sources: &sources })?;
    let files = Some(FileSet { entries }).filter(|files| !files.is_empty());
    let given = files.map(|files| planning.local.layer(&files, &Stack::new())).transpose()?;
    Ok(ContextLayers { own, given })
}

/// What a local path is, if images have nothing of its kind.
fn kind_of_no_image(path: &Path) -> Option<&'static str> {
    let kind = fs_err::symlink_metadata(path).ok()?.file_type();
    let is_device = kind.is_block_device() || kind.is_char_device();
    kind.is_socket().then_some("socket").or(is_device.then_some("device"))
}

/// Whether a source is a file that is there and that patterns leave out. Of a directory something may be taken in again.
fn is_left_out(root: &Path, ignore: Option<&Ignore>, source: &str) -> bool {
    let Some(Ignore::Patterns { patterns, invert: false }) = ignore else { return false };
    let name = clean(source);
    fs_err::metadata(root.join(&name)).is_ok_and(|metadata| !metadata.is_dir())
        && PatternMatcher::new(patterns).is_ok_and(|matcher| matcher.matches(name.as_bytes()))
}

/// A path of the local directory without what changes nothing.
fn clean(path: &str) -> String {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

/// A path of which nothing leads above where it begins.
fn inside(path: &str) -> String {
    if !leads_out(path) {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Whether a path may name other paths.
fn has_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', '\\'])
}

/// Whether a source means a file, by its own path, as a pattern or by a directory above it.
fn is_meant(source: &str, name: &str) -> bool {
    let (source, name) = (clean(source), clean(name));
    source.is_empty() || PatternMatcher::new(&[source]).is_ok_and(|pattern| pattern.matches(name.as_bytes()))
}

/// A name as a source that matches nothing else; only what is no text stands for any character.
pub(super) fn literal(name: &str) -> String {
    const SPECIAL: [char; 5] = ['*', '?', '[', '\\', char::REPLACEMENT_CHARACTER];
    let escaped = |character: char| match character {
        char::REPLACEMENT_CHARACTER => "?".to_owned(),
        special if SPECIAL.contains(&special) => format!("\\{special}"),
        other => other.to_string(),
    };
    // A part that is no pattern is taken as it is, backslashes included.
    let part = |part: &str| {
        let is_pattern = part.replace('\\', "").contains(SPECIAL);
        if is_pattern { part.chars().map(escaped).collect() } else { part.to_owned() }
    };
    name.split('/').map(part).collect::<Vec<String>>().join("/")
}

/// Whether a path goes above where it begins.
fn leads_out(path: &str) -> bool {
    let mut depth = 0_i64;
    path.split('/').any(|part| {
        depth += match part {
            "" | "." => 0,
            ".." => -1,
            _ => 1,
        };
        depth < 0
    })
}

impl Recipe for CopyPlan {
    fn execute(self: Box<Self>, context: &StepContext<'_>, log: &mut StepLog) -> Result<Made, StepError> {
        let owner = self.transfer.options.chown.as_deref();
        let owner = owner.map(|owner| ids::ids(&self.step, owner, context)).transpose()?;
        let mut stacked = Stacked { plan: &self, context, owner, layers: Vec::new() };
        let from = match (&self.transfer.options.from, &self.local) {
            (Some(_), _) => context.others.first().map(|other| other.layers.clone()).unwrap_or_default(),
            (None, Some(layers)) => layers.layers(),
            (None, None) => Stack::new(),
        };
        let mut plain = Vec::new();
        for source in &self.transfer.sources {
            if !self.is_add {
                plain.push(source.clone());
                continue;
            }
            if add::is_url(source) {
                stacked.download(source, log)?;
            } else {
                plain.extend(stacked.unpack(source, &from, log)?);
            }
        }
        if !plain.is_empty() {
            stacked.copy(&plain, &from)?;
        }
        stacked.documents()?;
        let mut layers = stacked.layers;
        let top = layers.pop().ok_or_else(|| mistake(&self.step, "it copies nothing"))?;
        Ok(Made::Layers { below: Stack::from_bottom_up(layers), top, facts: Box::default() })
    }
}

/// A file that is made for an instruction.
pub(super) struct MadeFile {
    pub(super) name: String,
    pub(super) contents: Vec<u8>,
    pub(super) mode: u32,
    /// When it was changed last; `None` is now.
    pub(super) modified: Option<SystemTime>,
}

/// The layers of one instruction, one over the other.
pub(super) struct Stacked<'a> {
    pub(super) plan: &'a CopyPlan,
    pub(super) context: &'a StepContext<'a>,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) layers: Vec<Committed>,
}

impl Stacked<'_> {
    pub(super) fn error(&self, message: impl Into<String>) -> StepError {
        StepError::from(mistake(&self.plan.step, message))
    }

    /// Copies sources of an image to the target.
    pub(super) fn copy(&mut self, sources: &[String], from: &Stack<Digest>) -> Result<(), StepError> {
        let options = &self.plan.transfer.options;
        let mode = options.chmod.as_deref().and_then(CopyMode::parse);
        self.copy_with(sources, from, &options.exclude, mode, Onto::Merged)
    }

    pub(super) fn copy_with(
        &mut self,
        sources: &[String],
        from: &Stack<Digest>,
        exclude: &[String],
        mode: Option<CopyMode>,
        onto: Onto<'_>,
    ) -> Result<(), StepError> {
        let copy = Copy { mode, exclude, ..self.copy_of(sources, onto) };
        let below = Stack::from_bottom_up(self.layers.iter().map(|layer| layer.digest));
        let onto = if is_apart(&self.plan.transfer) { below } else { self.context.parent.layers.under(&below) };
        match self.context.workshop.store.copy(&copy, from, &onto) {
            Ok(layer) => self.layers.push(layer),
            Err(StoreError::InvalidFileSet(message)) => return Err(self.error(message)),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn copy_of<'a>(&'a self, sources: &'a [String], onto: Onto<'a>) -> Copy<'a> {
        let parents = self.plan.transfer.options.parents && onto == Onto::Merged;
        Copy { sources, target: &self.plan.target, owner: self.owner, mode: None, parents, exclude: &[], onto }
    }

    /// What sources name in an image.
    pub(super) fn named(&self, sources: &[String], from: &Stack<Digest>) -> Result<Vec<Named>, StepError> {
        match self.context.workshop.store.named(&self.copy_of(sources, Onto::Merged), from) {
            Err(StoreError::InvalidFileSet(message)) => Err(self.error(message)),
            outcome => Ok(outcome?),
        }
    }

    /// The files that are written in the Dockerfile itself.
    fn documents(&mut self) -> Result<(), StepError> {
        let documents = &self.plan.transfer.documents;
        if documents.is_empty() {
            return Ok(());
        }
        let files = documents.iter().map(|document| MadeFile {
            name: document.name.clone(),
            contents: document.content.clone().into_bytes(),
            mode: 0o644,
            modified: None,
        });
        let names: Vec<String> = documents.iter().map(|document| document.name.clone()).collect();
        self.copy_made(files, &names)
    }

    /// Copies files that are made for it.
    pub(super) fn copy_made(
        &mut self,
        files: impl Iterator<Item = MadeFile>,
        names: &[String],
    ) -> Result<(), StepError> {
        let from = self.layer_of(files, names)?;
        let names: Vec<String> = names.iter().map(|name| literal(name)).collect();
        self.copy(&names, &from)
    }

    /// A layer with files that are made for it.
    pub(super) fn layer_of(
        &self,
        files: impl Iterator<Item = MadeFile>,
        names: &[String],
    ) -> Result<Stack<Digest>, StepError> {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().map_err(BuildError::failed)?;
        for MadeFile { name, contents, mode, modified } in files {
            let path = directory.path().join(&name);
            fs_err::write(&path, contents).map_err(BuildError::failed)?;
            fs_err::set_permissions(&path, PermissionsExt::from_mode(mode)).map_err(BuildError::failed)?;
            if let Some(time) = modified {
                let file = fs_err::File::open(&path).map_err(BuildError::failed)?;
                file.file().set_modified(time).map_err(BuildError::failed)?;
            }
        }
        let context = Context { root: directory.path(), ignore: None, sources: names };
        let layer = self.context.workshop.store.context_layer(&context)?;
        Ok(Stack::from_bottom_up([layer.digest]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_source_matches_its_name_alone() {
        for (name, other) in [("a[1].txt", "ax1].txt"), ("*", "x"), ("a?\\b", "axyb")] {
            let pattern = PatternMatcher::new(&[literal(name)]).unwrap();
            assert!(pattern.matches(name.as_bytes()) && !pattern.matches(other.as_bytes()), "{}", literal(name));
        }
        assert_eq!(literal("plain/back\\slash/a[b"), "plain/back\\slash/a\\[b");
    }
}
