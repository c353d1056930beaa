//! Files with keys that others on the machine can read.
//!
//! A warning and never a refusal: where a file lies in a folder that nobody else enters, or the system hands it
//! out so, it is as its operator wants it.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::Config;

/// Who may read a file beside its owner.
const GROUP: u32 = 0o040;
const OTHERS: u32 = 0o004;

/// A file with a key that can be read by more users than need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// What the key is, by its field in the configuration.
    pub key: String,
    /// The file.
    pub file: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// The mode that it should have.
    pub cure: u32,
}

impl std::fmt::Display for Exposed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key, file, mode, cure } = self;
        let who = if mode & OTHERS == 0 { "its group" } else { "every user of this machine" };
        let file = file.display();
        write!(f, "{file} ({key}) has mode {mode:03o}, so {who} can read it: chmod {cure:o} {file}")
    }
}

/// Files with keys that `config` names and more users can read than need to, and `file`, where it was read from,
/// if that holds a key itself. What can't be looked at is left out: it can't be read either, and that is told
/// elsewhere.
#[must_use]
pub fn exposed(config: &Config, file: Option<&Path>) -> Vec<Exposed> {
    let own = fs::metadata("/proc/self").ok().map(|it| it.uid());
    let mut exposed: Vec<Exposed> = Vec::new();
    for (key, file) in with_keys(config, file) {
        if exposed.iter().any(|it| it.file == file) {
            continue;
        }
        let Ok(found) = fs::metadata(file) else { continue };
        if let Some(cure) = cure(&found, own) {
            let mode = found.mode() & 0o7777;
            exposed.push(Exposed { key, file: file.to_owned(), mode, cure });
        }
    }
    exposed
}

/// Writes a warning for each file that is [`exposed`].
pub(crate) fn warn(config: &Config, file: Option<&Path>) {
    for it in exposed(config, file) {
        tracing::warn!(
            file = %it.file.display(),
            mode = %format_args!("{:03o}", it.mode),
            key = it.key,
            cure = %format_args!("chmod {:o}", it.cure),
            "a file with a key can be read by other users of this machine"
        );
    }
}

/// The mode that a file should have, where it has one that lets too many read it; `own` is the user that this
/// process runs as. One that belongs to somebody else is read by its group, and has to be.
fn cure(found: &Metadata, own: Option<u32>) -> Option<u32> {
    let by_group = own.is_some_and(|it| it != found.uid());
    let (too_many, cure) = if by_group { (OTHERS, 0o640) } else { (GROUP | OTHERS, 0o600) };
    (found.mode() & too_many != 0).then_some(cure)
}

/// Each file that holds a key, and which.
fn with_keys<'a>(
    config: &'a Config,
    file: Option<&'a Path>,
) -> impl Iterator<Item = (String, &'a Path)> {
    let Config { tls, admin, replicas, upstream, peers, tenants, hash_seed, .. } = config;
    let itself = file.filter(|_| hash_seed.is_some());
    let ports = [("tls.key", tls.as_ref()), ("admin.tls.key", admin.tls.as_ref())];
    let ports = ports.into_iter().filter_map(|(name, tls)| Some((name, tls?.key.as_path())));
    let shown = [("upstream.tls.key", &upstream.tls), ("peers.tls.key", &peers.tls)];
    let shown = shown.into_iter().filter_map(|(name, tls)| Some((name, tls.key.as_deref()?)));
    let secrets = [("admin.key", admin.key.as_ref()), ("peers.key", peers.key.as_ref())];
    let secrets = secrets.into_iter().filter_map(|(name, it)| Some((name, it?.file.as_deref()?)));
    let of_replicas = replicas.iter().enumerate().filter_map(|(at, it)| {
        Some((format!("replicas[{at}].tls.key"), it.tls.as_ref()?.key.as_deref()?))
    });
    let of_tenants = tenants.iter().enumerate().flat_map(|(at, tenant)| {
        let files = tenant.keys.iter().enumerate();
        files.filter_map(move |(key, it)| {
            Some((format!("tenants[{at}].keys[{key}]"), it.file.as_deref()?))
        })
    });
    let named = itself.map(|it| ("hash_seed", it)).into_iter().chain(ports).chain(shown);
    let named = named.chain(secrets).map(|(name, it)| (name.to_owned(), it));
    named.chain(of_replicas).chain(of_tenants)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A file that anybody can read, and its path.
    fn open(folder: &Path, name: &str) -> String {
        let file = folder.join(name);
        fs::write(&file, "key").unwrap();
        set(&file, 0o644);
        file.display().to_string()
    }

    fn set(file: &Path, mode: u32) {
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn every_file_with_a_key_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name| open(folder.path(), name);
        let text = format!(
            "
hash_seed: 7
tls: {{ cert: c, key: {} }}
admin: {{ key: {{ file: {} }}, tls: {{ cert: c, key: {} }} }}
upstream: {{ tls: {{ cert: c, key: {} }} }}
peers: {{ key: {{ file: {} }}, tls: {{ cert: c, key: {} }} }}
replicas: [{{ url: 'http://a:1' }}, {{ url: 'https://b:1', tls: {{ cert: c, key: {} }} }}]
tenants: [{{ name: a, keys: [{{ env: A }}, {{ file: {} }}, {{ file: {} }}] }}]
",
            file("port"),
            file("admin"),
            file("admin-tls"),
            file("upstream"),
            file("peers"),
            file("peers-tls"),
            file("replica"),
            file("tenant"),
            // One that was told of is not told of again.
            file("port"),
        );
        let config: Config = serde_yaml::from_str(&text).unwrap();
        let itself = file("router.yaml");
        let mut keys: Vec<String> =
            exposed(&config, Some(Path::new(&itself))).into_iter().map(|it| it.key).collect();
        keys.sort();
        let expected = [
            "admin.key",
            "admin.tls.key",
            "hash_seed",
            "peers.key",
            "peers.tls.key",
            "replicas[1].tls.key",
            "tenants[0].keys[1]",
            "tls.key",
            "upstream.tls.key",
        ];
        assert_eq!(keys, expected);
        for entry in fs::read_dir(folder.path()).unwrap() {
            set(&entry.unwrap().path(), 0o600);
        }
        assert_eq!(exposed(&config, Some(Path::new(&itself))), []);
    }

    #[test]
    fn a_file_and_its_cure_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = open(folder.path(), "key");
        let mut config = Config { hash_seed: Some(7), ..Config::default() };
        let told = |config: &Config| {
            exposed(config, Some(Path::new(&file))).first().map(ToString::to_string)
        };
        let all = format!(
            "{file} (hash_seed) has mode 644, so every user of this machine can read it: chmod 600 {file}"
        );
        assert_eq!(told(&config), Some(all));
        set(Path::new(&file), 0o640);
        assert!(told(&config).unwrap().contains("so its group can read it"));
        config.hash_seed = None;
        assert_eq!(told(&config), None, "it holds no key");
    }

    #[test]
    fn a_file_of_somebody_else_is_read_by_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let file = open(folder.path(), "key");
        let found = |mode| {
            set(Path::new(&file), mode);
            fs::metadata(&file).unwrap()
        };
        let owner = found(0o600).uid();
        assert_eq!(cure(&found(0o640), Some(owner)), Some(0o600));
        assert_eq!(cure(&found(0o640), Some(owner + 1)), None);
        assert_eq!(cure(&found(0o644), Some(owner + 1)), Some(0o640));
        assert_eq!(cure(&found(0o640), None), Some(0o600), "whoever that may be");
    }
}
