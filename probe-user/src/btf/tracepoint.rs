//! Tracepoints and enumerations: what arguments a tracepoint has on this kernel, and what their numbers mean.

use super::{Btf, kind, read_u32};

/// What an argument of a tracepoint is, as far as anybody here asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A pointer to a structure of this name.
    Pointer(String),
    /// An enumeration of this name.
    Enumeration(String),
    /// Anything else.
    Other,
}

impl Btf {
    /// The arguments of a tracepoint; `None` when the kernel has none of this name.
    ///
    /// The kernel describes each by a `typedef void (*btf_trace_NAME)(void *, ...)` (include/trace/bpf_probe.h), whose
    /// first parameter is not an argument.
    pub fn tracepoint(&self, name: &str) -> Option<Vec<Argument>> {
        let typedef = self.named(kind::TYPEDEF, &format!("btf_trace_{name}"))?;
        let pointer = self.resolve(read_u32(&self.data, typedef + 8)?)?;
        let pointer = self.at(pointer, kind::PTR)?;
        let prototype = self.at(self.resolve(read_u32(&self.data, pointer + 8)?)?, kind::FUNC_PROTO)?;
        let count = self.head(prototype)?.vlen;
        (1..count).map(|i| Some(self.argument(read_u32(&self.data, prototype + 12 + 8 * i + 4)?))).collect()
    }

    /// The enumerators of `enum name` with their values; `None` when the kernel has no such enumeration.
    pub fn enumerators(&self, name: &str) -> Option<Vec<(u32, &str)>> {
        let at = self.named(kind::ENUM, name)?;
        let enumerator = |i| {
            let at = at + 12 + 8 * i;
            Some((read_u32(&self.data, at + 4)?, self.string(read_u32(&self.data, at)?)?))
        };
        (0..self.head(at)?.vlen).map(enumerator).collect()
    }

    fn argument(&self, id: u32) -> Argument {
        let name = |at| Some(self.string(self.head(at)?.name)?.to_owned());
        let known = || {
            let id = self.resolve(id)?;
            if let Some(at) = self.at(id, kind::ENUM) {
                return Some(Argument::Enumeration(name(at)?));
            }
            let target = read_u32(&self.data, self.at(id, kind::PTR)? + 8)?;
            Some(Argument::Pointer(name(self.at(self.resolve(target)?, kind::STRUCT)?)?))
        };
        known().unwrap_or(Argument::Other)
    }

    /// Where type `id` is, if it is of this kind.
    fn at(&self, id: u32, kind: u32) -> Option<usize> {
        let at = *self.types.get(id as usize)? as usize;
        (at > 0 && self.head(at)?.kind == kind).then_some(at)
    }

    /// Where the type of this kind and name is. Looks at all of them, a millisecond or so.
    fn named(&self, kind: u32, name: &str) -> Option<usize> {
        (1..self.types.len() as u32).filter_map(|id| self.at(id, kind)).find(|at| {
            let head = self.head(*at);
            head.and_then(|head| self.string(head.name)) == Some(name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `enum why { A = 1, B = 70000 }`, and `typedef void (*btf_trace_t)(void *, const struct sock *, enum why, int)`.
    fn sample() -> Btf {
        let strings = b"\0why\0A\0B\0sock\0btf_trace_t\0int\0";
        let name = |s: &str| {
            let needle = [b"\0", s.as_bytes(), b"\0"].concat();
            1 + strings.windows(needle.len()).position(|w| w == needle).expect("in the table") as u32
        };
        let mut t: Vec<u32> = Vec::new();
        t.extend([name("why"), kind::ENUM << 24 | 2, 4, name("A"), 1, name("B"), 70_000]); // 1
        t.extend([name("sock"), kind::STRUCT << 24, 8]); // 2
        t.extend([0, 10 << 24, 2]); // 3: const
        t.extend([0, kind::PTR << 24, 3]); // 4
        t.extend([0, kind::PTR << 24, 0]); // 5: void *
        t.extend([name("int"), kind::INT << 24, 4, 0]); // 6
        t.extend([0, kind::FUNC_PROTO << 24 | 4, 0, 0, 5, 0, 4, 0, 1, 0, 6]); // 7
        t.extend([0, kind::PTR << 24, 7]); // 8
        t.extend([name("btf_trace_t"), kind::TYPEDEF << 24, 8]); // 9
        let types: Vec<u8> = t.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut out = 0xeb9f_u16.to_ne_bytes().to_vec();
        out.extend([1, 0]);
        for w in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            out.extend(w.to_ne_bytes());
        }
        out.extend(types);
        out.extend(strings);
        Btf::parse(out).expect("well formed")
    }

    #[test]
    fn arguments_and_enumerators_are_told_apart() {
        let btf = sample();
        let arguments =
            [Argument::Pointer("sock".into()), Argument::Enumeration("why".into()), Argument::Other];
        assert_eq!(btf.tracepoint("t").as_deref(), Some(&arguments[..]));
        assert_eq!(btf.enumerators("why"), Some(vec![(1, "A"), (70_000, "B")]));
        assert_eq!((btf.tracepoint("why"), btf.enumerators("sock")), (None, None));
    }
}
