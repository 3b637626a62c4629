using System.Data;
using System.Data.Common;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Threading.Channels;
using Fleet.Scheduler.Access;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Admission;

/// <summary>What became of a claim.</summary>
internal abstract record Claim
{
    private Claim() { }

    /// <summary>Name and key are ours: create this microVM.</summary>
    public sealed record Granted(string VmId) : Claim;

    /// <summary>The key came before with the same body: drive the same microVM's creation again.</summary>
    public sealed record Repeated(string VmId) : Claim;

    /// <summary>The key came before with another body.</summary>
    public sealed record KeyReused : Claim;

    /// <summary>Another microVM holds the name, claimed <paramref name="Since"/> by the clock of whatever keeps the claims, which is <paramref name="Age"/> ago.</summary>
    public sealed record NameHeld(string VmId, DateTimeOffset Since, TimeSpan Age) : Claim;
}

/// <summary>What a create wants to claim.</summary>
/// <param name="VmId">The id that was chosen for it.</param>
/// <param name="Name">The name.</param>
/// <param name="Key">The Idempotency-Key, if there is one.</param>
/// <param name="BodyHash">What tells one body from another.</param>
internal sealed record ClaimRequest(string VmId, string Name, string? Key, byte[] BodyHash);

/// <summary>
/// Names of microVMs and idempotency keys, each given out once. A claim is on disk before it is answered. One thread
/// writes, and takes all that waits into one transaction: the disk is forced once for many claims.
/// </summary>
internal sealed class ClaimStore : IAsyncDisposable
{
    /// <summary>How long a key is remembered.</summary>
    public static readonly TimeSpan KeyLifetime = TimeSpan.FromHours(24);

    private const int MaxBatch = 256;
    private const int MaxWaiting = 10_000;
    private const int Many = 8;
    private static readonly TimeSpan Moment = TimeSpan.FromMilliseconds(2);
    private static readonly TimeSpan PurgeInterval = TimeSpan.FromMinutes(5);

    private readonly ClaimDatabase _database;
    private readonly TimeProvider _clock;
    private readonly ILogger _log;
    private readonly RefusalLimit _told;
    private readonly int _keysKept;
    private readonly Channel<Work> _waiting = Channel.CreateBounded<Work>(new BoundedChannelOptions(MaxWaiting) { SingleReader = true });
    private readonly Task _writing;
    private readonly Dictionary<string, int> _driving = [];
    private readonly Dictionary<string, DbCommand> _commands = [];
    private DbConnection? _connection;

    /// <summary>Of the transaction that is under way: one look at the clock for all that it carries.</summary>
    private DateTimeOffset _now;
    private TimeSpan _nextPurge;

    /// <param name="database">Where they are kept. Unlike the view it can't be made again: it holds what was promised.</param>
    /// <param name="clock">Ages claims and keys.</param>
    /// <param name="log">Where trouble is told.</param>
    /// <param name="keysKept">Keys that are remembered at most; beyond it the oldest go early.</param>
    /// <exception cref="DbException">It can't be opened or is not a database.</exception>
    public ClaimStore(ClaimDatabase database, TimeProvider clock, ILogger log, int keysKept = 1_000_000)
    {
        _clock = clock;
        _log = log;
        _keysKept = keysKept;
        _database = database;
        _told = new RefusalLimit(1, clock);
        _connection = database.Open();
        _writing = Task.Factory.StartNew(Write, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);
    }

    /// <inheritdoc cref="ClaimDatabase.AbandonedAfter"/>
    public TimeSpan AbandonedAfter => _database.AbandonedAfter;

    /// <summary>
    /// Claims name and key together, or neither. After <see cref="Claim.Granted"/> and <see cref="Claim.Repeated"/> the
    /// caller drives the creation and must call <see cref="Driven"/> when it is through with it.
    /// </summary>
    /// <exception cref="ClaimsBusyException">Too much waits already.</exception>
    public Task<Claim> ClaimAsync(ClaimRequest request) => SubmitAsync(new Claiming(request, Decide, StopDriving));

    /// <summary>Whether a request with this key has claimed something already.</summary>
    /// <exception cref="ClaimsBusyException">Too much waits already.</exception>
    public Task<bool> KnowsAsync(string key) => SubmitAsync(transaction => FindKey(key, transaction) is not null);

    /// <summary>The caller does not wait for this claim any longer: whatever becomes of it, nobody drives it.</summary>
    public void Abandon(Task<Claim> claiming) => _ = claiming.ContinueWith(
        done => StopDriving(done.Result), CancellationToken.None, TaskContinuationOptions.OnlyOnRanToCompletion | TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);

    /// <summary>The caller of <see cref="ClaimAsync"/> no longer drives the creation of that microVM.</summary>
    public void Driven(string vmId)
    {
        lock (_driving)
        {
            if (--CollectionsMarshal.GetValueRefOrNullRef(_driving, vmId) == 0)
                _driving.Remove(vmId);
        }
    }

    /// <summary>Takes back what a microVM holds: its creation was refused.</summary>
    public Task WithdrawAsync(string vmId) => SubmitAsync(transaction => Withdraw(vmId, transaction));

    /// <summary>
    /// Takes back what a microVM holds that the cell does not know, unless somebody drives its creation just now; says
    /// whether it did. Claims are decided one after the other: who drove it in between, and was through with it, has made
    /// the claim younger than <paramref name="since"/>.
    /// </summary>
    public Task<bool> WithdrawAbandonedAsync(string vmId, DateTimeOffset since) => SubmitAsync(transaction =>
    {
        if (IsDriven(vmId))
            return false;
        if (Scalar("SELECT 1 FROM vm_names WHERE vm_id = @vm AND claimed_at <> @since", transaction,
            ("@vm", vmId), ("@since", since.ToUnixTimeMilliseconds())) is not null)
        {
            return false;
        }
        return Withdraw(vmId, transaction);
    });

    /// <summary>Frees the names of microVMs that are gone. Their keys stay, so that a repeat does not create anew.</summary>
    public Task ReleaseNamesAsync(IReadOnlyList<string> vmIds) => SubmitAsync(transaction =>
    {
        foreach (var vmId in vmIds)
            Run("DELETE FROM vm_names WHERE vm_id = @vm", transaction, ("@vm", vmId));
        return true;
    });

    /// <summary>
    /// Puts names back when there are none at all: the file was lost, the microVMs are not. Says how many it put back.
    /// </summary>
    public Task<int> AdoptAsync(IEnumerable<(string Name, string VmId)> names) => SubmitAsync(transaction =>
    {
        if (Scalar("SELECT 1 FROM vm_names LIMIT 1", transaction) is not null)
            return 0;
        var adopted = 0;
        foreach (var (name, vmId) in names)
        {
            TakeName(name, vmId, transaction);
            adopted++;
        }
        return adopted;
    });

    /// <summary>The microVM that holds a name, or null.</summary>
    public string? Holder(string name)
    {
        using var connection = _database.Open();
        using var command = Command(connection, null, "SELECT vm_id FROM vm_names WHERE name = @name", ("@name", name));
        return command.ExecuteScalar() as string;
    }

    public async ValueTask DisposeAsync()
    {
        _waiting.Writer.TryComplete();
        await _writing;
        _connection?.Dispose();
        _database.Dispose();
    }

    /// <param name="request">What is wanted.</param>
    /// <param name="taken">Whether it has the name since a moment ago; null: that was not tried.</param>
    /// <param name="transaction">Of all that are decided now.</param>
    private Claim Decide(ClaimRequest request, bool? taken, DbTransaction transaction)
    {
        if (request.Key is not null && FindKey(request.Key, transaction) is { } known)
        {
            if (!known.Hash.AsSpan().SequenceEqual(request.BodyHash))
                return new Claim.KeyReused();
            Run("UPDATE vm_names SET claimed_at = @now WHERE vm_id = @vm", transaction, ("@now", _now.ToUnixTimeMilliseconds()), ("@vm", known.VmId));
            Drive(known.VmId);
            return new Claim.Repeated(known.VmId);
        }
        // Most names are free: the first look is the taking itself.
        if (!(taken ?? TakeName(request.Name, request.VmId, transaction)))
        {
            using var reader = Command("SELECT vm_id, claimed_at FROM vm_names WHERE name = @name", transaction, ("@name", request.Name)).ExecuteReader();
            reader.Read();
            var since = DateTimeOffset.FromUnixTimeMilliseconds(reader.GetInt64(1));
            return new Claim.NameHeld(reader.GetString(0), since, _now - since);
        }
        if (request.Key is not null)
            Run("""
                INSERT INTO idempotency_keys (key, body_hash, vm_id, created_at) VALUES (@key, @hash, @vm, @now)
                ON CONFLICT (key) DO UPDATE SET body_hash = excluded.body_hash, vm_id = excluded.vm_id, created_at = excluded.created_at
                """, transaction,
                ("@key", request.Key), ("@hash", request.BodyHash), ("@vm", request.VmId), ("@now", _now.ToUnixTimeMilliseconds()));
        Drive(request.VmId);
        return new Claim.Granted(request.VmId);
    }

    /// <summary>False: another microVM has it.</summary>
    private bool TakeName(string name, string vmId, DbTransaction transaction) =>
        Run("INSERT INTO vm_names (name, vm_id, claimed_at) VALUES (@name, @vm, @now) ON CONFLICT (name) DO NOTHING", transaction,
            ("@name", name), ("@vm", vmId), ("@now", _now.ToUnixTimeMilliseconds())) > 0;

    private void Drive(string vmId)
    {
        lock (_driving)
            CollectionsMarshal.GetValueRefOrAddDefault(_driving, vmId, out _)++;
    }

    private bool IsDriven(string vmId)
    {
        lock (_driving)
            return _driving.ContainsKey(vmId);
    }

    private void StopDriving(Claim claim)
    {
        if (claim is Claim.Granted granted)
            Driven(granted.VmId);
        else if (claim is Claim.Repeated repeated)
            Driven(repeated.VmId);
    }

    private (byte[] Hash, string VmId)? FindKey(string key, DbTransaction transaction)
    {
        using var reader = Command("SELECT body_hash, vm_id FROM idempotency_keys WHERE key = @key AND created_at > @oldest", transaction,
            ("@key", key), ("@oldest", (_now - KeyLifetime).ToUnixTimeMilliseconds())).ExecuteReader();
        return reader.Read() ? (reader.GetFieldValue<byte[]>(0), reader.GetString(1)) : null;
    }

    private bool Withdraw(string vmId, DbTransaction transaction)
    {
        Run("DELETE FROM vm_names WHERE vm_id = @vm", transaction, ("@vm", vmId));
        Run("DELETE FROM idempotency_keys WHERE vm_id = @vm", transaction, ("@vm", vmId));
        return true;
    }

    private void Purge(DbTransaction transaction)
    {
        if (_clock.GetElapsedTime(0) < _nextPurge)
            return;
        Run("DELETE FROM idempotency_keys WHERE created_at <= @oldest", transaction, ("@oldest", (_now - KeyLifetime).ToUnixTimeMilliseconds()));
        Run("""
            DELETE FROM idempotency_keys WHERE created_at <=
                (SELECT created_at FROM idempotency_keys ORDER BY created_at DESC LIMIT 1 OFFSET @kept)
            """, transaction, ("@kept", _keysKept));
        _nextPurge = _clock.GetElapsedTime(0) + PurgeInterval;
    }

    private Task<T> SubmitAsync<T>(Func<DbTransaction, T> work) => SubmitAsync(new Step<T>(work));

    private Task<T> SubmitAsync<T>(Work<T> item) => _waiting.Writer.TryWrite(item) ? item.Done : throw new ClaimsBusyException();

    private void Write()
    {
        var batch = new List<Work>(MaxBatch);
        while (_waiting.Reader.WaitToReadAsync().AsTask().GetAwaiter().GetResult())
        {
            // Where many came at once, more come in a moment: the disk is not forced for each handful.
            if (batch.Count >= Many)
                Thread.Sleep(Moment);
            batch.Clear();
            while (batch.Count < MaxBatch && _waiting.Reader.TryRead(out var item))
                batch.Add(item);
            if (!TryCommit(batch))
                foreach (var item in batch)
                    TryCommit([item]);
        }
    }

    private void Disconnect()
    {
        _commands.Clear();
        _connection?.Dispose();
        _connection = null;
    }

    /// <summary>True when the batch is on disk and answered, or has failed as a whole; false when its items are to be tried one by one.</summary>
    private bool TryCommit(IReadOnlyList<Work> batch)
    {
        try
        {
            // One that broke behind the last batch would say so in words that nobody takes for a database that is away.
            if (_connection is { State: not ConnectionState.Open })
                Disconnect();
            _connection ??= _database.Open();
            using var transaction = _database.Begin(_connection);
            _now = _database.Now(transaction, _clock);
            Purge(transaction);
            Execute(batch, transaction);
            transaction.Commit();
        }
        catch (Exception fault)
        {
            // Whatever it was, the next batch begins with a new connection.
            Disconnect();
            foreach (var item in batch)
                item.Undo();
            // One of many may be at fault, unless it is the way to the database: then each would wait for it again.
            if (batch.Count > 1 && fault is not (DbException { IsTransient: true } or TimeoutException or SocketException))
                return false;
            // Whoever waits tries again and again; each is told, the log once a minute.
            if (_told.Note(""))
                _log.LogError(fault, "Names and idempotency keys can't be written");
            foreach (var item in batch)
                item.Fail(fault);
            return true;
        }
        foreach (var item in batch)
            item.Succeed();
        return true;
    }

    /// <summary>In their order; those beside each other that only want a name take theirs together where that is quicker.</summary>
    private void Execute(IReadOnlyList<Work> batch, DbTransaction transaction)
    {
        for (var at = 0; at < batch.Count;)
        {
            List<Claiming> alike = [.. batch.Skip(at).TakeWhile(item => item is Claiming { Request.Key: null }).Cast<Claiming>()];
            var taken = alike.Count > 1 ? _database.TakeNames(transaction, [.. alike.Select(claiming => claiming.Request)], _now) : null;
            foreach (var claiming in alike)
            {
                claiming.Taken = taken?.Contains(claiming.Request.VmId);
                claiming.Execute(transaction);
            }
            at += alike.Count;
            if (at < batch.Count)
                batch[at++].Execute(transaction);
        }
    }

    private int Run(string sql, DbTransaction transaction, params ReadOnlySpan<(string, object)> values) =>
        Command(sql, transaction, values).ExecuteNonQuery();

    private object? Scalar(string sql, DbTransaction transaction, params ReadOnlySpan<(string, object)> values) =>
        Command(sql, transaction, values).ExecuteScalar();

    /// <summary>Prepared once for each connection.</summary>
    private DbCommand Command(string sql, DbTransaction transaction, params ReadOnlySpan<(string Name, object Value)> values)
    {
        if (_commands.TryGetValue(sql, out var known))
        {
            known.Transaction = transaction;
            for (var at = 0; at < values.Length; at++)
                known.Parameters[at].Value = values[at].Value;
            return known;
        }
        var command = Command(transaction.Connection!, transaction, sql, values);
        command.Prepare();
        return _commands[sql] = command;
    }

    private static DbCommand Command(DbConnection connection, DbTransaction? transaction, string sql, params ReadOnlySpan<(string Name, object Value)> values)
    {
        var command = connection.CreateCommand();
        command.CommandText = sql;
        command.Transaction = transaction;
        foreach (var (name, value) in values)
        {
            var parameter = command.CreateParameter();
            parameter.ParameterName = name;
            parameter.Value = value;
            command.Parameters.Add(parameter);
        }
        return command;
    }

    private abstract class Work
    {
        public abstract void Execute(DbTransaction transaction);
        public abstract void Undo();
        public abstract void Succeed();
        public abstract void Fail(Exception fault);
    }

    private abstract class Work<T>(Action<T>? undo) : Work
    {
        private readonly TaskCompletionSource<T> _done = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private T? _result;
        private bool _executed;

        public Task<T> Done => _done.Task;

        public override void Execute(DbTransaction transaction)
        {
            _result = Run(transaction);
            _executed = true;
        }

        protected abstract T Run(DbTransaction transaction);

        public override void Undo()
        {
            if (_executed)
                undo?.Invoke(_result!);
            _executed = false;
        }

        public override void Succeed() => _done.TrySetResult(_result!);

        public override void Fail(Exception fault) => _done.TrySetException(fault);
    }

    private sealed class Step<T>(Func<DbTransaction, T> work) : Work<T>(null)
    {
        protected override T Run(DbTransaction transaction) => work(transaction);
    }

    private sealed class Claiming(ClaimRequest request, Func<ClaimRequest, bool?, DbTransaction, Claim> decide, Action<Claim> undo) : Work<Claim>(undo)
    {
        public ClaimRequest Request => request;

        /// <summary>Whether it has its name since a moment ago; null: that was not tried.</summary>
        public bool? Taken { get; set; }

        protected override Claim Run(DbTransaction transaction) => decide(request, Taken, transaction);
    }
}

/// <summary>More claims wait than the disk can take.</summary>
internal sealed class ClaimsBusyException() : Exception("Too many microVMs are being created at once.");
