//! Times in JSON: integer nanoseconds; a bounded value is the pair of value and bound.

macro_rules! nanos {
    ($module:ident, $type:ty) => {
        pub(crate) mod $module {
            use serde::{Deserialize, Deserializer, Serializer};
            pub(crate) fn serialize<S: Serializer>(value: &$type, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_i64(value.as_nanos())
            }
            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                i64::deserialize(from).map(<$type>::from_nanos)
            }
        }
    };
}

nanos!(span_serde, probe_ebpf::time::Span);
nanos!(mono_serde, probe_ebpf::time::MonoNs);

pub(crate) mod option_mono_serde {
    use probe_ebpf::time::MonoNs;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Option<MonoNs>, to: S) -> Result<S::Ok, S::Error> {
        value.map(MonoNs::as_nanos).serialize(to)
    }
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<MonoNs>, D::Error> {
        Ok(Option::<i64>::deserialize(from)?.map(MonoNs::from_nanos))
    }
}

pub(crate) mod bounded_serde {
    use probe_ebpf::time::{Bounded, Span};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Bounded, to: S) -> Result<S::Ok, S::Error> {
        (value.value.as_nanos(), value.bound.as_nanos()).serialize(to)
    }
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bounded, D::Error> {
        let (value, bound) = <(i64, i64)>::deserialize(from)?;
        Ok(Bounded::new(Span::from_nanos(value), Span::from_nanos(bound)))
    }
}
