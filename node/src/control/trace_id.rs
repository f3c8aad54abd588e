//! A trace's name, as it is written everywhere: 32 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The `trace-id` of W3C Trace Context (section 3.2.2.3): 16 bytes, not all zero. An entry that was set with one
/// carries it to every v1 node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TraceId([u8; 16]);

/// It is no trace id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a trace id has 32 hexadecimal digits, not all zero; this is {0:?}")]
pub struct NoTraceId(String);

impl TraceId {
    /// Its bytes.
    pub const fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl From<[u8; 16]> for TraceId {
    /// As it came with an entry, whatever its bytes are.
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl FromStr for TraceId {
    type Err = NoTraceId;

    fn from_str(text: &str) -> Result<Self, NoTraceId> {
        let all_digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(number) if all_digits && number != 0 => Ok(Self(number.to_be_bytes())),
            // Nobody needs to see more of something this wrong.
            _ => Err(NoTraceId(text.chars().take(40).collect())),
        }
    }
}

impl TryFrom<String> for TraceId {
    type Error = NoTraceId;

    fn try_from(text: String) -> Result<Self, NoTraceId> {
        text.parse()
    }
}

impl From<TraceId> for String {
    fn from(id: TraceId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let text = "00f067aa0ba902b74bf92f3577b34da6";
        let id: TraceId = text.parse().unwrap();
        assert_eq!((id.to_string().as_str(), id.bytes()[1]), (text, 0xf0));
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        for wrong in
            ["", "0", &"0".repeat(32), &"f".repeat(33), &format!("+{}", "1".repeat(31)), &"g".repeat(32)]
        {
            assert!(wrong.parse::<TraceId>().is_err(), "{wrong}");
            assert!(serde_json::from_str::<TraceId>(&format!("\"{wrong}\"")).is_err(), "{wrong}");
        }
    }
}
