namespace Fleet.Cli.Output;

/// <summary>What the program's exit status tells a script. <c>vm run</c> and <c>vm exec</c> give the command's own status instead, and 125 for every failure of Fleet's; <c>vm run --detach</c> gives <see cref="Incomplete"/> for what waits for room.</summary>
internal static class ExitCodes
{
    public const int Ok = 0;

    /// <summary>The request was refused or failed.</summary>
    public const int Failed = 1;

    /// <summary>Wrong usage; also what the command-line parser returns.</summary>
    public const int Usage = 2;

    public const int NotFound = 3;

    /// <summary>The verb does not fit the state, a name is taken, a volume is in use, there are as many as there may be, or no host has room for what is not to wait.</summary>
    public const int Conflict = 4;

    /// <summary>No API there, or it is not ready.</summary>
    public const int Unreachable = 5;

    public const int Timeout = 6;

    /// <summary>Done, but not for every microVM: some have no place to run, or are on a host that is gone.</summary>
    public const int Incomplete = 7;

    /// <summary><c>vm run</c>, <c>vm exec</c>: Fleet failed, not the command.</summary>
    public const int RunFailed = 125;

    /// <summary><c>vm exec</c>: the guest has the command, but it can't be executed.</summary>
    public const int CommandNotExecutable = 126;

    /// <summary><c>vm exec</c>: the guest does not have the command.</summary>
    public const int CommandNotFound = 127;

    /// <summary>Ended by Ctrl-C.</summary>
    public const int Interrupted = 130;

    public static int Of(string code) => code switch
    {
        "not_found" => NotFound,
        "name_taken" or "wrong_state" or "host_connected" or "host_in_use" or "volume_in_use" or "too_many_volumes" or "too_many_tokens" or "no_capacity" or "idempotency_key_reused" => Conflict,
        "unavailable" or Api.ApiException.Unreachable => Unreachable,
        "timeout" => Timeout,
        "invalid_json" or "unknown_field" or "invalid_field" or "missing_field" or "invalid_query" or "invalid_command" or "confirmation_required" => Usage,
        _ => Failed,
    };
}
