//! `modal dict` and `modal queue`. What only Python can show, values, Python shows.

use std::ffi::OsString;

use lamina_collections::{Collection, CollectionName, Collections, CollectionsError, Kind, Reference};
use lamina_engine::collections;
use lamina_ground::seconds_since_1970;
use serde_json::json;

use super::ask::{confirm_removal, say};
use super::listing::{table, time};
use super::{print, print_json};
use crate::arguments::{Dict, Environment, ListOptions, Named, Queue, Removal};
use crate::failure::Failure;
use crate::output::Progress;
use crate::program::{self, Program};

/// `modal dict`.
pub(crate) fn dict(dict: &Dict) -> Result<u8, Failure> {
    match dict {
        Dict::List(options) => list(Kind::Dict, options),
        Dict::Create(named) => create(Kind::Dict, named),
        Dict::Get { name, key, environment } => show(&["dict", "get", &environment.name, name, key]),
        Dict::Items { name, count, all, repr, json, environment } => {
            let count = if *all { "all".to_owned() } else { count.to_string() };
            let form = if *json { "json" } else { "text" };
            let words = if *repr { "repr" } else { "str" };
            show(&["dict", "items", &environment.name, name, &count, form, words])
        }
        Dict::Clear { name, yes, environment } => {
            let all = collections()?;
            let id = find(&all, Kind::Dict, name, environment)?;
            if !confirm_removal(*yes, &format!("all entries of the dict `{name}`"), "")? {
                return Ok(1);
            }
            all.clear_dict(&id)?;
            Ok(0)
        }
        Dict::Delete(removal) => delete(Kind::Dict, removal),
    }
}

/// `modal queue`.
pub(crate) fn queue(queue: &Queue) -> Result<u8, Failure> {
    match queue {
        Queue::List(options) => list(Kind::Queue, options),
        Queue::Create(named) => create(Kind::Queue, named),
        Queue::Peek { name, count, partition, environment } => {
            let partition = partition.as_deref().unwrap_or_default();
            show(&["queue", "peek", &environment.name, name, &count.to_string(), partition])
        }
        Queue::Len { name, partition, total, environment } => {
            let all = collections()?;
            let id = find(&all, Kind::Queue, name, environment)?;
            let count = all.length(&id, which(partition.as_deref(), *total))?;
            print(format!("{count}\n").as_bytes())?;
            Ok(0)
        }
        Queue::Clear { name, partition, all: every, yes, environment } => {
            let all = collections()?;
            let id = find(&all, Kind::Queue, name, environment)?;
            if !confirm_removal(*yes, &format!("values of the queue `{name}`"), "")? {
                return Ok(1);
            }
            all.clear_queue(&id, which(partition.as_deref(), *every))?;
            Ok(0)
        }
        Queue::Delete(removal) => delete(Kind::Queue, removal),
    }
}

/// The partition that is meant; nothing stands for all.
fn which(partition: Option<&str>, all: bool) -> Option<&[u8]> {
    (!all).then(|| partition.unwrap_or_default().as_bytes())
}

fn list(kind: Kind, options: &ListOptions) -> Result<u8, Failure> {
    let found = collections()?.list(kind, &options.environment.name)?;
    let name = |it: &Collection| it.name.as_ref().map(|name| name.name.clone()).unwrap_or_default();
    if options.json {
        let shown = |it: &Collection| json!({ "name": name(it), "created_at": time(it.created), "id": it.id });
        print_json(&found.iter().map(shown).collect::<Vec<_>>())?;
        return Ok(0);
    }
    if found.is_empty() {
        say(&format!("There are no {kind}s: `modal {kind} create` makes them.\n"));
    }
    let rows: Vec<_> = found.iter().map(|it| (name(it), it.created)).collect();
    print(table(&rows, seconds_since_1970()).as_bytes())?;
    Ok(0)
}

fn create(kind: Kind, named: &Named) -> Result<u8, Failure> {
    let name = CollectionName { environment: named.environment.name.clone(), name: named.name.clone() };
    let made = collections()?.make(kind, &name, true)?;
    say(&format!("There is a {kind} `{}` now, `{}`.\n", named.name, made.id));
    Ok(0)
}

fn delete(kind: Kind, removal: &Removal) -> Result<u8, Failure> {
    let all = collections()?;
    match find(&all, kind, &removal.name, &removal.environment) {
        Err(CollectionsError::NotFound { .. }) if removal.allow_missing => return Ok(0),
        Err(error @ CollectionsError::NotFound { .. }) => {
            return Err(Failure::new(error.to_string()).hint(format!("`modal {kind} list` shows what there is")));
        }
        found => drop(found?),
    }
    if !confirm_removal(removal.yes, &format!("the {kind} `{}`", removal.name), "")? {
        return Ok(1);
    }
    let name = CollectionName { environment: removal.environment.name.clone(), name: removal.name.clone() };
    all.delete(kind, &name)?;
    say(&format!("Removed the {kind} `{}`.\n", removal.name));
    Ok(0)
}

fn find(all: &Collections, kind: Kind, name: &str, environment: &Environment) -> Result<String, CollectionsError> {
    let name = CollectionName { environment: environment.name.clone(), name: name.to_owned() };
    all.find(kind, &Reference::Name { name, create: false }).map(|found| found.id)
}

/// Has Python show values, which are pickles of its own.
fn show(words: &[&str]) -> Result<u8, Failure> {
    let arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
    Ok(program::run(Program { arguments: &arguments, progress: Progress::Quiet, ..Program::default() })?.code)
}
