//! [`setters`]: declares the methods of a builder that set one option each.

/// Each line declares a method: its name, its argument, the field and the new value of the field.
macro_rules! setters {
    ($builder:ident $(
        $(#[$doc:meta])*
        $name:ident($value:ident: $type:ty): $($field:ident).+ = $set:expr;
    )*) => {
        impl $builder {
            $(
                $(#[$doc])*
                pub fn $name(mut self, $value: $type) -> Self {
                    self.$($field).+ = $set;
                    self
                }
            )*
        }
    };
}

pub(super) use setters;
