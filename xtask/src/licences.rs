//! Only permissive licences may be linked in.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::exec;

/// Licences that allow use in a program under MIT or Apache-2.0 without passing their own terms on to it.
/// (MPL-2.0 asks that only for changes of its own files.)
const PERMITTED: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

/// Fails with a list of the packages linked in here that can't be used under a permitted licence.
pub fn check() -> Result<()> {
    // What is linked in here; other systems' crates would have to be downloaded first.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let text = exec::output(
        exec::cargo()
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform"])
            .arg(platform),
    )?;
    let metadata: Metadata = serde_json::from_str(&text).context("reading cargo metadata")?;
    ensure!(!metadata.packages.is_empty(), "cargo metadata names no packages");
    let refused: Vec<String> = metadata
        .packages
        .iter()
        .filter_map(|package| {
            let why = match package.license.as_deref().map(is_permitted) {
                Some(Ok(true)) => return None,
                Some(Ok(false)) => package.license.clone().unwrap_or_default(),
                Some(Err(error)) => format!("{error:#}"),
                None => "names no licence".to_owned(),
            };
            Some(format!("  {} {}: {why}", package.name, package.version))
        })
        .collect();
    ensure!(refused.is_empty(), "no permitted licence (see xtask/src/licences.rs):\n{}", refused.join("\n"));
    Ok(())
}

/// Whether an SPDX expression can be met with permitted licences alone.
fn is_permitted(expression: &str) -> Result<bool> {
    // Cargo's older form of OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let permitted = any(&mut words).with_context(|| format!("licence `{expression}`"))?;
    ensure!(words.next().is_none(), "licence `{expression}` is no SPDX expression");
    Ok(permitted)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>) -> Result<bool> {
    let mut permitted = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        permitted |= all(words)?;
    }
    Ok(permitted)
}

fn all(words: &mut Words<'_>) -> Result<bool> {
    let mut permitted = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        permitted &= one(words)?;
    }
    Ok(permitted)
}

fn one(words: &mut Words<'_>) -> Result<bool> {
    match words.next() {
        Some("(") => {
            let permitted = any(words)?;
            ensure!(words.next() == Some(")"), "unbalanced");
            Ok(permitted)
        }
        Some("OR" | "AND" | "WITH" | ")") | None => bail!("no SPDX expression"),
        Some(licence) => {
            let mut name = licence.to_owned();
            if words.next_if_eq(&"WITH").is_some() {
                name = format!("{name} WITH {}", words.next().context("an exception is missing")?);
            }
            Ok(PERMITTED.contains(&name.as_str()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_needs_one_and_a_sum_needs_all() {
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-2.0-only", false),
            ("LGPL-2.1-or-later", false),
            ("MIT OR GPL-2.0-only", true),
            ("MIT/Apache-2.0", true),
            ("MIT AND GPL-2.0-only", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("MIT OR Apache-2.0 AND AGPL-3.0-only", true),
            ("(MIT OR Apache-2.0) AND AGPL-3.0-only", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0-only", true),
            ("GPL-2.0-only WITH Linux-syscall-note", false),
        ] {
            assert_eq!(is_permitted(expression).unwrap(), expected, "{expression}");
        }
    }

    #[test]
    fn what_is_no_expression_is_an_error() {
        for expression in ["", "MIT OR", "(MIT", "MIT)", "AND", "MIT GPL-2.0-only"] {
            assert!(is_permitted(expression).is_err(), "{expression}");
        }
    }
}
