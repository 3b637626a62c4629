namespace Fleet.Scheduler.Projection;

/// <summary>
/// Every SQL text of the view in one place: the part to read when another database is to carry it. All but
/// <see cref="Pragmas"/> and <see cref="Create"/> is SQL that SQLite and PostgreSQL both take.
/// </summary>
internal static class ViewSchema
{
    /// <summary>
    /// Counts the shape of the tables and of what is stored in them. Another number in the file means that the view is
    /// dropped and built anew from the journal.
    /// </summary>
    public const long Format = 2;

    // NORMAL: a power cut may take back the last commits, offset included; they are read from the journal again and
    // get the same indexes, because an index is the event's offset.
    public const string Pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;";

    public const string Create = """
        CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS vms (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, tenant TEXT NOT NULL, state INTEGER NOT NULL, host TEXT NOT NULL,
            sequence_nr INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
        CREATE INDEX IF NOT EXISTS vms_by_state ON vms (state, id);
        CREATE INDEX IF NOT EXISTS vms_by_host ON vms (host, id);
        CREATE INDEX IF NOT EXISTS vms_by_tenant ON vms (tenant, id);
        CREATE TABLE IF NOT EXISTS vm_labels (
            vm_id TEXT NOT NULL, label TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (vm_id, label)) WITHOUT ROWID;
        CREATE INDEX IF NOT EXISTS vm_labels_by_value ON vm_labels (label, value, vm_id);
        CREATE TABLE IF NOT EXISTS hosts (
            id TEXT PRIMARY KEY, state INTEGER NOT NULL, sequence_nr INTEGER NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS changes (
            position INTEGER PRIMARY KEY, kind INTEGER NOT NULL, id TEXT NOT NULL, tenant TEXT NOT NULL, record BLOB NOT NULL);
        CREATE INDEX IF NOT EXISTS changes_by_tenant ON changes (tenant, position) WHERE tenant <> '';
        """;

    public const string Drop = """
        DROP TABLE IF EXISTS meta; DROP TABLE IF EXISTS vms; DROP TABLE IF EXISTS vm_labels;
        DROP TABLE IF EXISTS hosts; DROP TABLE IF EXISTS changes;
        """;

    public const string ReadMeta = "SELECT value FROM meta WHERE name = @name";
    public const string WriteMeta =
        "INSERT INTO meta (name, value) VALUES (@name, @value) ON CONFLICT (name) DO UPDATE SET value = excluded.value";

    public const string ReadVm = "SELECT sequence_nr, record FROM vms WHERE id = @id";
    public const string WriteVm = """
        INSERT INTO vms (id, name, tenant, state, host, sequence_nr, record) VALUES (@id, @name, @tenant, @state, @host, @sequence_nr, @record)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, state = excluded.state, host = excluded.host,
            sequence_nr = excluded.sequence_nr, record = excluded.record
        """;
    public const string DeleteVm = "DELETE FROM vms WHERE id = @id";
    public const string WriteLabel = "INSERT INTO vm_labels (vm_id, label, value) VALUES (@vm_id, @label, @value)";
    public const string DeleteLabels = "DELETE FROM vm_labels WHERE vm_id = @vm_id";

    public const string ReadHost = "SELECT sequence_nr, record FROM hosts WHERE id = @id";
    public const string WriteHost = """
        INSERT INTO hosts (id, state, sequence_nr, record) VALUES (@id, @state, @sequence_nr, @record)
        ON CONFLICT (id) DO UPDATE SET state = excluded.state, sequence_nr = excluded.sequence_nr, record = excluded.record
        """;

    public const string WriteChange = "INSERT INTO changes (position, kind, id, tenant, record) VALUES (@position, @kind, @id, @tenant, @record)";
    public const string CountChanges = "SELECT COUNT(*) FROM changes";
    public const string SumChanges = "SELECT COALESCE(SUM(LENGTH(record)), 0) FROM changes";
    public const string NthOldestChange = "SELECT position FROM changes ORDER BY position LIMIT 1 OFFSET @skip";
    public const string DeleteChanges = "DELETE FROM changes WHERE position <= @position";
    public const string ReadChanges =
        "SELECT position, kind, id, record FROM changes WHERE position > @after ORDER BY position LIMIT @limit";

    // The second condition lets SQLite use the index, which leaves out what is nobody's.
    public const string ReadTenantChanges =
        "SELECT position, kind, id, record FROM changes WHERE tenant = @tenant AND tenant <> '' AND position > @after ORDER BY position LIMIT @limit";

    public const string ListNames = "SELECT name, id, tenant FROM vms";

    public const string ListHosts =
        "SELECT id, record FROM hosts WHERE id > @after AND state <> @removed ORDER BY id LIMIT @limit";

    /// <summary>The list of microVMs with the filters that are set. Only parameters carry what came from outside.</summary>
    public static string ListVms(int states, bool host, int labels, bool tenant)
    {
        var where = new List<string> { "id > @after" };
        if (states > 0)
            where.Add($"state IN ({string.Join(", ", Enumerable.Range(0, states).Select(i => $"@state{i}"))})");
        if (tenant)
            where.Add("tenant = @tenant");
        if (host)
            where.Add("host = @host");
        for (var i = 0; i < labels; i++)
            where.Add($"EXISTS (SELECT 1 FROM vm_labels WHERE vm_id = vms.id AND label = @label{i} AND value = @value{i})");
        return $"SELECT id, record FROM vms WHERE {string.Join(" AND ", where)} ORDER BY id LIMIT @limit";
    }
}
