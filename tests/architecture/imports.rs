//! The imports of the crate: no cycle between files, and layers import downwards only.
//!
//! The graph has a node for each file of `src` and an edge for each import. An import is a path in
//! a `use` item, in code, in a type or in a macro call. A path is followed through re-exports and
//! imported modules to the file that defines the item. A file may import what the module file of
//! its folder defines: `x/mod.rs`, or `x.rs` for the folder `x`.
//!
//! The graph lacks names that a glob brings into scope (`use module::*` is an edge to that module's
//! file only), methods and trait implementations that need no path, paths that a macro builds, and
//! intra-doc links. It leaves out items under `#[cfg(test)]`: tests may import anything.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Item, UseTree,
    visit::{self, Visit},
};

/// Each layer with the layers that it may import.
const LAYERS: [(&str, &[&str]); 13] = [
    ("protocol", &[]),
    ("archive", &["protocol"]),
    ("machine", &["protocol"]),
    ("lift", &["protocol", "machine"]),
    ("yield_now", &[]),
    ("transport", &["protocol", "machine", "yield_now"]),
    ("error", &["protocol", "machine", "archive", "transport"]),
    (
        "actor",
        &[
            "protocol",
            "machine",
            "lift",
            "transport",
            "error",
            "yield_now",
        ],
    ),
    (
        "client",
        &[
            "protocol",
            "archive",
            "machine",
            "transport",
            "error",
            "actor",
        ],
    ),
    ("test_util", &["protocol", "machine", "transport"]),
    ("inside", &["protocol", "archive"]),
    (
        "server",
        &["protocol", "archive", "machine", "yield_now", "inside"],
    ),
    ("guide", &[]),
];

/// A path as its segments, from the root of the crate.
type ModulePath = Vec<String>;

#[derive(Default)]
struct Module {
    file: PathBuf,
    /// The names of the items that the file defines.
    items: BTreeSet<String>,
    /// Names that `use` items bring into scope, with the path of each as written.
    uses: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    /// Paths outside `use` items, as written.
    paths: Vec<Vec<String>>,
}

struct Crate(BTreeMap<ModulePath, Module>);

impl Crate {
    /// Reads the module in a file and all modules below it.
    fn read(root: &Path, file: &Path) -> Self {
        let mut modules = BTreeMap::new();
        let mut todo = vec![(ModulePath::new(), file.to_owned())];
        while let Some((path, file)) = todo.pop() {
            let text = fs::read_to_string(&file).expect("a source file");
            let syntax = syn::parse_file(&text).expect("Rust");
            let mut module = Module {
                file: file.strip_prefix(root).expect("below src").to_owned(),
                ..Module::default()
            };
            let mut folder = file.with_extension("");
            if ["lib", "main", "mod"].iter().any(|it| folder.ends_with(it)) {
                folder.pop();
            }
            for item in &syntax.items {
                if let Item::Mod(child) = item
                    && child.content.is_none()
                    && !is_test(&child.attrs)
                {
                    let name = child.ident.to_string();
                    let flat = folder.join(&name).with_extension("rs");
                    let nested = folder.join(&name).join("mod.rs");
                    let file = if flat.exists() { flat } else { nested };
                    todo.push(([&path[..], &[name]].concat(), file));
                }
            }
            module.visit_file(&syntax);
            modules.insert(path, module);
        }
        Self(modules)
    }

    /// The file that defines the item that a path in a module names. `None` for other crates.
    fn resolve(&self, module: &ModulePath, path: &[String], depth: usize) -> Option<&Path> {
        let (mut at, mut rest) = (module.clone(), path);
        match rest.first()?.as_str() {
            "crate" => {
                at.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {}
            first if depth > 0 && !self.is_known(module, first) => return None,
            _ => {}
        }
        while rest.first().is_some_and(|it| it == "super") {
            at.pop();
            rest = &rest[1..];
        }
        while let Some((name, below)) = rest.split_first() {
            let child = [&at[..], std::slice::from_ref(name)].concat();
            let here = &self.0[&at];
            if self.0.contains_key(&child) {
                at = child;
                rest = below;
            } else if here.items.contains(name) {
                break;
            } else if let Some(target) = here.uses.get(name).filter(|_| depth < 16) {
                return self.resolve(&at, &[target, below].concat(), depth + 1);
            } else {
                // The name comes from a glob, or from another crate.
                let through = |glob: &Vec<String>| {
                    let target = [glob, rest].concat();
                    self.resolve(&at, &target, depth + 1)
                };
                let found = here.globs.iter().filter(|_| depth < 16).find_map(through);
                return found.or_else(|| (at != *module).then_some(&here.file));
            }
        }
        Some(&self.0[&at].file)
    }

    fn is_known(&self, module: &ModulePath, name: &str) -> bool {
        let here = &self.0[module];
        let child = [&module[..], &[name.to_owned()]].concat();
        here.uses.contains_key(name) || here.items.contains(name) || self.0.contains_key(&child)
    }

    /// The files that each file imports.
    fn imports(&self) -> BTreeMap<&Path, BTreeSet<&Path>> {
        let mut imports = BTreeMap::<&Path, BTreeSet<&Path>>::new();
        for (path, module) in &self.0 {
            let written = module.uses.values().chain(&module.globs);
            let written = written.chain(&module.paths);
            let files = written.filter_map(|it| self.resolve(path, it, 1));
            let files = files.filter(|file| *file != module.file);
            imports.entry(&module.file).or_default().extend(files);
        }
        imports
    }
}

impl Module {
    fn add_use(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(tree) => self.add_use(&tree.tree, &with(&tree.ident)),
            UseTree::Group(group) => group.items.iter().for_each(|it| self.add_use(it, before)),
            UseTree::Glob(_) => self.globs.push(before.to_vec()),
            UseTree::Name(name) if name.ident == "self" => {
                self.uses
                    .extend(before.last().map(|it| (it.clone(), before.to_vec())));
            }
            UseTree::Name(name) => {
                drop(self.uses.insert(name.ident.to_string(), with(&name.ident)))
            }
            UseTree::Rename(tree) => {
                let name = (tree.rename != "_").then(|| tree.rename.to_string());
                // `as _` binds no name, but it is an import.
                let name = name.unwrap_or_else(|| format!("_ {}", tree.ident));
                self.uses.insert(name, with(&tree.ident));
            }
        }
    }
}

impl Visit<'_> for Module {
    fn visit_item(&mut self, item: &Item) {
        let (attributes, name) = match item {
            Item::Const(it) => (&it.attrs, Some(&it.ident)),
            Item::Enum(it) => (&it.attrs, Some(&it.ident)),
            Item::Fn(it) => (&it.attrs, Some(&it.sig.ident)),
            Item::Macro(it) => (&it.attrs, it.ident.as_ref()),
            // Items of an inline module count as items of the file.
            Item::Mod(it) => (&it.attrs, it.content.as_ref().map(|_| &it.ident)),
            Item::Static(it) => (&it.attrs, Some(&it.ident)),
            Item::Struct(it) => (&it.attrs, Some(&it.ident)),
            Item::Trait(it) => (&it.attrs, Some(&it.ident)),
            Item::Type(it) => (&it.attrs, Some(&it.ident)),
            Item::Union(it) => (&it.attrs, Some(&it.ident)),
            Item::Impl(it) => (&it.attrs, None),
            Item::Use(it) => (&it.attrs, None),
            _ => return,
        };
        if is_test(attributes) {
            return;
        }
        self.items.extend(name.map(ToString::to_string));
        match item {
            Item::Use(item) => self.add_use(&item.tree, &[]),
            Item::Mod(item) if item.content.is_some() => {}
            item => visit::visit_item(self, item),
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let names = path.segments.iter().map(|it| it.ident.to_string());
        self.paths.push(names.collect());
        visit::visit_path(self, path);
    }

    // The path in `pub(in path)` is not an import.
    fn visit_visibility(&mut self, _: &syn::Visibility) {}

    fn visit_macro(&mut self, call: &syn::Macro) {
        let text = call.tokens.to_string().replace(" :: ", "::");
        let is_word = |it: char| it.is_alphanumeric() || it == '_' || it == ':';
        let words = text.split(|it| !is_word(it)).filter(|it| it.contains("::"));
        self.paths
            .extend(words.map(|it| it.split("::").map(str::to_owned).collect()));
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|it| {
        let list = it.path().is_ident("cfg").then(|| it.meta.require_list());
        let text = list.map(|list| list.expect("a list").tokens.to_string());
        text.is_some_and(|it| it == "test" || it.starts_with("all (test"))
    })
}

/// Whether a file is the module file of a folder that holds another file: `x/mod.rs`, or `x.rs`
/// where the folder is `x`.
fn is_mod_of(file: &Path, other: &Path) -> bool {
    let names = ["mod.rs", "lib.rs", "main.rs"];
    match names.iter().any(|it| file.ends_with(it)) {
        true => file
            .parent()
            .is_some_and(|folder| other.starts_with(folder)),
        false => other.starts_with(file.with_extension("")),
    }
}

/// For each file on a cycle, a shortest cycle through it. Each cycle appears once.
fn cycles<'a>(imports: &BTreeMap<&'a Path, BTreeSet<&'a Path>>) -> Vec<Vec<&'a Path>> {
    let mut cycles = BTreeMap::new();
    for &start in imports.keys() {
        let mut from = BTreeMap::new();
        let mut todo = VecDeque::from([start]);
        while let Some(file) = todo.pop_front() {
            // A file may import what the module file of its folder defines.
            for &next in imports[file].iter().filter(|it| !is_mod_of(it, file)) {
                if from.contains_key(next) {
                    continue;
                }
                from.insert(next, file);
                todo.push_back(next);
            }
        }
        let mut cycle = vec![start];
        let mut at = from.get(start).copied();
        while let Some(file) = at.filter(|file| *file != start) {
            cycle.push(file);
            at = from.get(file).copied();
        }
        if at.is_some() {
            let mut files = cycle.clone();
            files.sort_unstable();
            cycle.reverse();
            cycle.rotate_right(1);
            cycles.entry(files).or_insert(cycle);
        }
    }
    cycles.into_values().collect()
}

fn crates() -> [Crate; 2] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    ["lib.rs", "bin/actix-sandbox/main.rs"].map(|file| Crate::read(&root, &root.join(file)))
}

#[test]
fn no_two_files_import_each_other() {
    let mut found = Vec::new();
    for tree in crates() {
        for cycle in cycles(&tree.imports()) {
            let names: Vec<_> = cycle.iter().map(|it| it.display().to_string()).collect();
            found.push(names.join(" -> "));
        }
    }
    assert!(found.is_empty(), "import cycles:\n{}", found.join("\n"));
}

#[test]
fn layers_import_downwards_only() {
    let [tree, _] = crates();
    let layer = |file: &Path| {
        let name = file.iter().next().unwrap_or_default().to_string_lossy();
        name.trim_end_matches(".rs").to_owned()
    };
    let mut found = Vec::new();
    for (file, imports) in tree.imports() {
        let from = layer(file);
        if from == "lib" {
            continue;
        }
        let row = LAYERS.iter().find(|(name, _)| *name == from);
        let (_, allowed) = row.unwrap_or_else(|| panic!("{from} has no row in the table"));
        for import in imports {
            let to = layer(import);
            let line = format!("{} -> {}", file.display(), import.display());
            if to != from && !allowed.contains(&&*to) {
                found.push(line);
            }
        }
    }
    assert!(found.is_empty(), "upward imports:\n{}", found.join("\n"));
}

/// Checks the graph itself, with groups, renames, re-exports and macros.
#[test]
fn imports_are_followed_to_the_file_that_defines_them() {
    let folder = tempfile::tempdir().expect("a directory");
    let write = |file: &str, text: &str| {
        let file = folder.path().join(file);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(file, text).expect("a file");
    };
    write("lib.rs", "mod a; mod b; mod c; mod d; mod e;");
    write(
        "a.rs",
        "use crate::{b::{self, Inner as Renamed}}; fn f() { b::helper() }",
    );
    write("b/mod.rs", "mod inner; pub use inner::{Inner, helper};");
    write(
        "b/inner.rs",
        "pub struct Inner; pub fn helper() { let _ = vec![crate::c::VALUE]; }",
    );
    write(
        "c.rs",
        "pub const VALUE: u8 = 0; fn f(_: super::d::Type) {}",
    );
    write(
        "d.rs",
        "pub type Type = u8; #[cfg(test)] mod tests { use crate::a::f; }",
    );
    write(
        "e.rs",
        "mod inner; pub struct Outer; fn f(_: inner::Inner) { fn g() { use crate::d::Type; } }",
    );
    write("e/inner.rs", "pub struct Inner(super::Outer);");
    let tree = Crate::read(folder.path(), &folder.path().join("lib.rs"));
    let imports = tree.imports();
    let of = |file: &str| -> Vec<_> {
        let files = imports[Path::new(file)].iter();
        files.map(|it| it.display().to_string()).collect()
    };
    assert_eq!(of("a.rs"), ["b/inner.rs", "b/mod.rs"]);
    assert_eq!(of("b/inner.rs"), ["c.rs"]);
    assert_eq!(of("c.rs"), ["d.rs"]);
    assert!(of("d.rs").is_empty());
    assert_eq!(of("e.rs"), ["d.rs", "e/inner.rs"]);
    assert_eq!(of("e/inner.rs"), ["e.rs"]);
    assert!(cycles(&imports).is_empty());

    write("d.rs", "pub type Type = u8; use crate::b::Inner;");
    let tree = Crate::read(folder.path(), &folder.path().join("lib.rs"));
    let found: Vec<_> = cycles(&tree.imports()).concat();
    assert_eq!(found, ["b/inner.rs", "c.rs", "d.rs"].map(Path::new));
}
