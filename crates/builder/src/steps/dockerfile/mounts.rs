//! What the mounts of a `RUN` show.

use std::collections::BTreeSet;

use lamina_dockerfile::{Bind, Cache, Made, RunMount, Secret, Sharing, Tmpfs};
use lamina_ground::Stack;
use lamina_image::{Digest, DockerfileStep};
use lamina_sandbox::{Mount, MountedFile};
use lamina_store::{Copy, Lock, Onto, StoreError};

use super::cache::{Prepare, name};
use super::copy::{ContextLayers, literal};
use super::{ids, mistake};
use crate::state::State;
use crate::steps::{StepContext, StepError};

/// Most bytes of a directory in memory that says nothing about it.
const MEMORY: u64 = 1 << 30;

/// The mounts of a command, and what they are made from.
pub(super) struct Mounted<'a> {
    pub(super) step: &'a DockerfileStep,
    pub(super) mounts: &'a [RunMount],
    /// What mounts show of the local directory, in their order.
    pub(super) contexts: &'a [ContextLayers],
    pub(super) context: &'a StepContext<'a>,
}

/// What the mounts of a command come to.
#[derive(Default)]
pub(super) struct Prepared {
    pub(super) mounts: Vec<Mount>,
    /// Layers over the image.
    pub(super) over: Vec<Digest>,
    /// Variables with secrets.
    pub(super) variables: Vec<(String, String)>,
    /// Directories of which nothing stays.
    pub(super) discarded: Vec<String>,
}

impl Mounted<'_> {
    pub(super) fn prepare(&self) -> Result<Prepared, StepError> {
        let mut prepared = Prepared::default();
        // What is shown and cannot be changed: last, because other mounts may lie in it.
        let mut read_only = Vec::new();
        let mut contexts = self.contexts.iter();
        for (mount, from) in self.with_sources() {
            match mount {
                RunMount::Cache(cache) => prepared.mounts.push(self.cache(cache, from)?),
                RunMount::Secret(secret) => self.add_secret(secret, &mut prepared)?,
                RunMount::Tmpfs(tmpfs) => prepared.mounts.push(Mount::Tmpfs {
                    target: tmpfs.target.clone(),
                    mode: 0o1777,
                    limit_bytes: tmpfs.size.unwrap_or(MEMORY),
                }),
                RunMount::Bind(bind) => {
                    let from = from.map(|state| (state.layers.clone(), state.content().hex()));
                    let context = || contexts.next().map(|files| (files.layers(), files.content()));
                    let (from, content) = from.or_else(context).unwrap_or_default();
                    if self.is_within_another(bind) {
                        prepared.mounts.push(self.copy(bind, &from, &content)?);
                        continue;
                    }
                    prepared.over.push(self.layer(bind, &from)?);
                    prepared.discarded.push(bind.target.trim_matches('/').to_owned());
                    if !bind.writable {
                        read_only.push(Mount::ReadOnly { target: bind.target.clone() });
                    }
                }
            }
        }
        // What lies in another mount comes after it, whatever their order is.
        prepared.mounts.sort_by_key(|mount| depth(target(mount)));
        prepared.mounts.append(&mut read_only);
        Ok(prepared)
    }

    /// The mounts, each with the state that it is from.
    fn with_sources(&self) -> impl Iterator<Item = (&RunMount, Option<&State>)> {
        let mut others = self.context.others.iter();
        self.mounts.iter().map(move |mount| {
            let from = mount.from().and_then(|_| others.next()).map(|state| &**state);
            // Of `scratch`, a cache begins as it does of nothing.
            let is_nothing = |from: &&State| matches!(mount, RunMount::Cache(_)) && from.layers.is_empty();
            (mount, from.filter(|from| !is_nothing(from)))
        })
    }

    /// Keeps the caches that are not shared for this command. Each is taken once, and all in one order: no two commands wait
    /// for each other.
    pub(super) fn lock_caches(&self) -> Result<Vec<Lock>, StepError> {
        let workshop = self.context.workshop;
        let names: BTreeSet<String> = self
            .with_sources()
            .filter_map(|(mount, from)| match mount {
                // One after the other is also right for those who want one each.
                RunMount::Cache(cache) if cache.sharing != Sharing::Shared => Some(name(cache, from)),
                _ => None,
            })
            .collect();
        let lock = |name: String| workshop.store.lock(&format!("cache-{name}"), workshop.cancel, || ());
        names.into_iter().map(|name| Ok(lock(name)?)).collect()
    }

    /// A directory that stays.
    fn cache(&self, cache: &Cache, from: Option<&State>) -> Result<Mount, StepError> {
        let store = self.context.workshop.store;
        if let Some(Made { uid, gid, .. }) = cache.made {
            self.check_ids(uid, gid)?;
        }
        let (name, part) = (name(cache, from), cache.source.as_deref());
        let source = match (from, part) {
            // Of an image of which no part is named, a directory with an owner or mode of its own shows nothing.
            (Some(from), _) if cache.made.is_none() => {
                let seeded = store.seeded_cache(&name, &literal(part.unwrap_or("/")), &from.layers);
                seeded.map_err(|error| self.refused(error))?
            }
            _ => {
                let directory = store.cache_directory(&name)?;
                let job = Prepare { cache: name, made: cache.made, part: part.map(str::to_owned) };
                match store.job(&job, &[]).map_err(StoreError::from)? {
                    Some(path) if path.is_empty() => directory,
                    Some(path) => format!("{directory}/{path}").into(),
                    None => {
                        let (id, part) = (&cache.id, part.unwrap_or_default());
                        let message = format!(
                            "`source={part}` is not in the cache `{id}`: a command that has all of it makes it"
                        );
                        return Err(mistake(self.step, message).into());
                    }
                }
            }
        };
        Ok(Mount::Bind { source, target: cache.target.clone(), read_only: cache.read_only })
    }

    /// Whether a bind lies in a directory that something else is mounted over, which hides the image there.
    fn is_within_another(&self, bind: &Bind) -> bool {
        let parts = |path: &str| {
            let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
            parts.map(str::to_owned).collect::<Vec<_>>()
        };
        let own = parts(&bind.target);
        self.mounts.iter().any(|mount| match mount {
            RunMount::Cache(Cache { target, .. }) | RunMount::Tmpfs(Tmpfs { target, .. }) => {
                let other = parts(target);
                own.len() > other.len() && own.starts_with(&other)
            }
            RunMount::Bind(_) | RunMount::Secret(_) => false,
        })
    }

    /// A part of another image as files of its own, which are kept by what they are.
    fn copy(&self, bind: &Bind, from: &Stack<Digest>, content: &str) -> Result<Mount, StepError> {
        if bind.writable {
            let message = "what is mounted within a cache or `tmpfs` cannot be written to here: remove `rw`";
            return Err(mistake(self.step, message).into());
        }
        let name = format!("bind-{}", &Digest::of(format!("{content}\0{}", bind.source).as_bytes()).hex()[..16]);
        let copy = self.context.workshop.store.seeded_cache(&name, &literal(&bind.source), from);
        let source = copy.map_err(|error| self.refused(error))?;
        Ok(Mount::Bind { source, target: bind.target.clone(), read_only: true })
    }

    /// A part of another image as a layer, because nothing of it may change.
    fn layer(&self, bind: &Bind, from: &Stack<Digest>) -> Result<Digest, StepError> {
        let copy = Copy {
            sources: &[literal(&bind.source)],
            target: bind.target.trim_end_matches('/'),
            owner: None,
            mode: None,
            parents: false,
            exclude: &[],
            onto: Onto::Hidden,
        };
        let layer = self.context.workshop.store.copy(&copy, from, &self.context.parent.layers);
        Ok(layer.map_err(|error| self.refused(error))?.digest)
    }

    /// Gives a secret by the name of its variable.
    fn add_secret(&self, secret: &Secret, prepared: &mut Prepared) -> Result<(), StepError> {
        let value = self.context.node.variables().filter(|(name, _)| *name == secret.id).last();
        let Some((_, value)) = value else {
            if !secret.required {
                return Ok(());
            }
            let message = format!(
                "the secret `{}` is required and not given: pass `secrets=[modal.Secret.from_dict({{\"{}\": …}})]`",
                secret.id, secret.id
            );
            return Err(mistake(self.step, message).into());
        };
        if let Some(variable) = &secret.variable {
            prepared.variables.push((variable.clone(), value.to_owned()));
        }
        if let Some(target) = &secret.target {
            let Made { uid, gid, mode } = secret.made;
            self.check_ids(uid, gid)?;
            let contents = value.as_bytes().to_vec();
            prepared.mounts.push(Mount::File(MountedFile { target: target.clone(), contents, mode, uid, gid }));
        }
        Ok(())
    }

    fn check_ids(&self, uid: u32, gid: u32) -> Result<(), StepError> {
        ids::check(self.step, (uid, gid), &format!("{uid}:{gid}"), self.context).map(drop)
    }

    fn refused(&self, error: StoreError) -> StepError {
        match error {
            StoreError::InvalidFileSet(message) => mistake(self.step, message).into(),
            error => error.into(),
        }
    }
}

/// Where a mount is.
fn target(mount: &Mount) -> &str {
    match mount {
        Mount::Cache { target, .. }
        | Mount::Bind { target, .. }
        | Mount::Host { target, .. }
        | Mount::ReadOnly { target }
        | Mount::File(MountedFile { target, .. })
        | Mount::Tmpfs { target, .. } => target,
    }
}

/// How many directories lead to a path.
fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).count()
}
