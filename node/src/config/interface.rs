//! The name of a network interface.

use super::ConfigError;

/// What the kernel takes for one (net/core/dev.c, `dev_valid_name`). Whether there is one of this name can change while
/// the node runs, and is no mistake of the settings.
pub(super) fn interface(key: &'static str, name: String) -> Result<String, ConfigError> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
    if (1..libc::IFNAMSIZ).contains(&name.len()) && !name.contains(odd) && name != "." && name != ".." {
        return Ok(name);
    }
    Err(ConfigError::OutOfRange {
        key,
        value: format!("{name:?}"),
        expected: "the name of a network interface, for example eth0".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels() {
        for good in ["eth0", "enp3s0f1np1", "a", "bond0.17", "fifteen-letters"] {
            assert_eq!(interface("k", good.into()).ok().as_deref(), Some(good));
        }
        for bad in ["", ".", "..", "sixteen--letters", "eth 0", "a/b", "eth0:1", "a\0", "\n"] {
            let error = interface("k", bad.into()).unwrap_err().to_string();
            assert!(error.starts_with("k is \"") && error.contains("for example eth0"), "{error}");
        }
    }
}
