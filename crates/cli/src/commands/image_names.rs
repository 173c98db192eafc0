//! `modal image names`: names of images.

use std::fmt::Write as _;

use lamina_engine::{Engine, ImageName, NamedImage};
use lamina_ground::seconds_since_1970;
use serde_json::{Value, json};

use super::ask::{confirm_removal, say};
use super::{print, print_json};
use crate::arguments::{ImageNames, Removal};
use crate::failure::Failure;
use crate::output::text;

/// Lists or removes.
pub(crate) fn names(engine: &Engine, names: &ImageNames) -> Result<u8, Failure> {
    match names {
        ImageNames::List { prefix, json: as_json, environment } => {
            let is_wanted = |named: &NamedImage| {
                named.name.environment == environment.name && named.name.to_string().starts_with(prefix)
            };
            let list: Vec<NamedImage> = engine.image_names()?.into_iter().filter(is_wanted).collect();
            if *as_json {
                print_json(&list.iter().map(json).collect::<Vec<_>>())?;
                return Ok(0);
            }
            if list.is_empty() {
                say("There are no names of images: `Image.publish` gives them.\n");
            }
            print(table(&list, seconds_since_1970()).as_bytes())?;
            Ok(0)
        }
        ImageNames::Delete(Removal { name, yes, allow_missing, environment }) => {
            delete(engine, &read(name, &environment.name), *yes, *allow_missing)
        }
    }
}

/// A name as the command line has it.
fn read(name: &str, environment: &str) -> ImageName {
    let (name, tag) = name.split_once(':').unwrap_or((name, "latest"));
    ImageName { environment: environment.to_owned(), name: name.to_owned(), tag: tag.to_owned() }
}

fn delete(engine: &Engine, name: &ImageName, yes: bool, allow_missing: bool) -> Result<u8, Failure> {
    if !engine.image_names()?.iter().any(|named| named.name == *name) {
        if allow_missing {
            return Ok(0);
        }
        let message = format!("no image has the name `{name}` in the environment `{}`", name.environment);
        return Err(Failure::new(message).hint("`modal image names list` shows what there is"));
    }
    if !confirm_removal(yes, &format!("the name `{name}`"), "")? {
        return Ok(1);
    }
    engine.unpublish(name)?;
    say(&format!("Removed the name `{name}`.\n"));
    Ok(0)
}

fn json(named: &NamedImage) -> Value {
    json!({
        "name": named.name.name, "tag": named.name.tag, "environment": named.name.environment, "image": named.image,
        "created": named.created,
    })
}

fn table(list: &[NamedImage], now: u64) -> String {
    let width = list.iter().map(|named| named.name.to_string().len()).max().unwrap_or(0).max(4);
    let mut text = String::new();
    if !list.is_empty() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{:width$}  {:25}  published", "name", "image");
    }
    for named in list {
        let age = text::age(now.saturating_sub(named.created));
        let _ = writeln!(text, "{:width$}  {:25}  {age}", named.name.to_string(), named.image);
    }
    text
}

#[cfg(test)]
mod tests {
    use lamina_engine::Origin;

    use super::*;

    #[test]
    fn names_are_a_table() {
        let named = |name: &str, created| NamedImage {
            name: read(name, "main"),
            image: "im-1RXICKkBtd7a13dxsKMP0v".to_owned(),
            created,
            origin: Origin::default(),
        };
        insta::assert_snapshot!(table(&[named("trainer", 100), named("trainer:v1.2", 3_000)], 4_000), @r"
        name            image                      published
        trainer:latest  im-1RXICKkBtd7a13dxsKMP0v  1 h ago
        trainer:v1.2    im-1RXICKkBtd7a13dxsKMP0v  16 min ago
        ");
    }
}
