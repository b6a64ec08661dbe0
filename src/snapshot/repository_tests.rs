use super::super::testing::{KEY, LINEAGE, author, chunk, env, repository, snap, spec};
use super::*;
use crate::cipher::Sealed;

#[test]
fn a_repository_on_files_survives_being_closed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("repo");
    let id = Repository::init(&root, &env().0).unwrap();
    assert_eq!(Repository::init(&root, &env().0).unwrap_err().kind(), Kind::Exists);
    let repo = Repository::open(&root, env().0, Some(author(1))).unwrap();
    assert_eq!((repo.id().unwrap(), repo.last_log_number(LINEAGE).unwrap()), (id, None));
    let writer = repo.begin(spec(1, 4, None)).unwrap();
    writer.put_chunk(ChunkNo(2), Sealed::made_up(&chunk(4)), KEY).unwrap();
    let done = writer.finish().unwrap();
    assert_eq!((done.stats.chunks, done.stats.changed, done.stats.stored_bytes), (1, 1, 3 * 4096));

    let again = Repository::open(&root, env().0, Some(author(1))).unwrap();
    assert_eq!(again.last_log_number(LINEAGE).unwrap(), Some(2));
    let list = again.list(LINEAGE).unwrap();
    assert_eq!((list.len(), list[0].id, list[0].stored_bytes), (1, snap(1), 3 * 4096));
    assert_eq!(again.keys(LINEAGE).unwrap()[&KEY].blob, [1, 2, 3]);
    again.put_key(LINEAGE, KEY, &[4]).unwrap();
    assert_eq!(again.keys(LINEAGE).unwrap()[&KEY].blob, [4]);
    assert_eq!(again.lineages().unwrap(), [LINEAGE]);

    let reader = Repository::open(&root, env().0, None).unwrap();
    assert_eq!(reader.list(LINEAGE).unwrap().len(), 1);
    assert_eq!(reader.delete(LINEAGE, snap(1)).unwrap_err().kind(), Kind::ReadOnly);
    let mut other = author(2);
    other.installation = author(1).installation;
    let stolen = Repository::open(&root, env().0, Some(other)).unwrap();
    assert_eq!(stolen.delete(LINEAGE, snap(1)).unwrap_err().kind(), Kind::Integrity);
}

#[test]
fn newer_features_are_refused_or_read_only() {
    let (repo, objects) = repository();
    let put = |features: &str| {
        let json =
            format!(r#"{{"format":"coffer-repository","version":1,"repository":"{}",{features}}}"#, repo.id().unwrap());
        objects.put_over(DESCRIPTION, Bytes::from(json)).unwrap();
        Repository::open_in(objects.clone(), env().0, Some(author(1)))
    };
    assert_eq!(put(r#""incompatible":["x"]"#).err().unwrap().kind(), Kind::Unsupported);
    let read_only = put(r#""read_only_compatible":["x"]"#).unwrap();
    assert_eq!(read_only.begin(spec(1, 1, None)).err().unwrap().kind(), Kind::ReadOnly);
    assert_eq!(read_only.list(LINEAGE).unwrap(), []);
    put(r#""compatible":["x"]"#).unwrap().begin(spec(1, 1, None)).unwrap();
}

use crate::units::ChunkNo;
