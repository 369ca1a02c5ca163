//! Foreign keys that a drill looks up on its copy, on a real server.

use anyhow::{Result, ensure};
use holdfast_drills::checks::foreign_keys::{Counted, count};
use holdfast_tests::postgres::{Options, TestPostgres};
use tokio_postgres::NoTls;

const TABLES: &str = r#"
    CREATE SCHEMA "odd one";
    CREATE TABLE company (id int PRIMARY KEY, code text UNIQUE);
    CREATE TABLE "odd one"."Move" (id int, "Company" int REFERENCES company, code text REFERENCES company (code));
    CREATE TABLE line (a int, b text, PRIMARY KEY (a, b));
    CREATE TABLE detail (a int, b text, FOREIGN KEY (a, b) REFERENCES line);
    CREATE TABLE part (id int REFERENCES company) PARTITION BY RANGE (id);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
    CREATE TABLE heir () INHERITS ("odd one"."Move");
    INSERT INTO heir VALUES (1, 4711, NULL);
    INSERT INTO company SELECT n, 'c' || n FROM generate_series(1, 10) n;
    INSERT INTO "odd one"."Move" SELECT n, n, CASE WHEN n > 5 THEN 'c' || n END FROM generate_series(1, 10) n;
    INSERT INTO line VALUES (1, 'x'), (2, 'y');
    INSERT INTO detail VALUES (1, 'x'), (NULL, 'y'), (2, 'y');
    INSERT INTO part VALUES (3), (4);
"#;

async fn counted(pg: &TestPostgres) -> Result<Counted> {
    let (client, connection) = tokio_postgres::connect(&pg.conninfo("postgres"), NoTls).await?;
    let running = tokio::spawn(connection);
    let counted = count(&client).await?;
    drop(client);
    running.await??;
    Ok(counted)
}

#[tokio::test]
async fn every_row_finds_what_it_refers_to() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pg = TestPostgres::start(dir.path(), Options::default())?;
    ensure!(
        counted(&pg).await? == Counted::default(),
        "an empty database has nothing to count"
    );
    pg.psql(TABLES)?;
    let whole = Counted {
        keys: 4,
        // Ten and five moves, two details without a NULL, two rows of a partition.
        rows: 19,
        orphans: 0,
    };
    ensure!(counted(&pg).await? == whole, "{:?}", counted(&pg).await?);
    // What corruption does, and no statement can: rows vanish behind the constraint.
    pg.psql("SET session_replication_role = replica; DELETE FROM company WHERE id IN (3, 9); DELETE FROM line WHERE a = 2")?;
    let torn = Counted { orphans: 5, ..whole };
    ensure!(counted(&pg).await? == torn, "{:?}", counted(&pg).await?);
    // A constraint that the source does not hold to be valid says nothing.
    pg.psql("ALTER TABLE line ADD COLUMN c int; ALTER TABLE line ADD FOREIGN KEY (c) REFERENCES company NOT VALID")?;
    ensure!(counted(&pg).await?.keys == 4, "{:?}", counted(&pg).await?);
    Ok(())
}
