namespace Fleet.Shared.Vms;

/// <summary>
/// Bounds of a microVM's spec. Together they keep a spec below 150,000 bytes, so that every
/// message and every stored event that carries one stays small.
/// </summary>
public static class VmLimits
{
    /// <summary>
    /// microVMs of one host, those that have ended included: what one Hello names, which keeps it within a message between nodes (see
    /// maximum-frame-size in cluster.conf). Far above what one machine runs.
    /// </summary>
    public const int MaxVmsPerHost = 4096;

    /// <summary>What fleet-vmm gives one guest.</summary>
    public const int MaxCpus = 32;

    /// <summary>Less than this and no Linux kernel gets to its first line.</summary>
    public const int MinMemoryMib = 32;

    /// <summary>1 TiB: above any machine this runs on, far below where sums of MiB overflow.</summary>
    public const int MaxMemoryMib = 1_048_576;

    /// <summary>Memory of a microVM with the default image that asks for none.</summary>
    public const int DefaultImageMemoryMib = 256;

    /// <summary>Memory of a microVM with a kernel of its own, or a simulated one, that asks for none.</summary>
    public const int DefaultMemoryMib = 128;

    /// <summary>UTF-8 bytes of all arguments, with one for the end of each.</summary>
    public const int MaxCommandBytes = 64 * 1024;

    /// <summary>Arguments of the command.</summary>
    public const int MaxCommandArguments = 1024;

    /// <summary>UTF-8 bytes of all names and values, with two for each pair.</summary>
    public const int MaxEnvBytes = 32 * 1024;

    /// <summary>Variables of the environment.</summary>
    public const int MaxEnvVariables = 1024;

    /// <summary>Length of one environment variable's name.</summary>
    public const int MaxEnvNameLength = 128;

    /// <summary>Labels of one microVM.</summary>
    public const int MaxLabels = 64;

    /// <summary>Zones that one microVM may name.</summary>
    public const int MaxZones = 16;

    /// <summary>Labels of hosts that tenants may ask for begin with it.</summary>
    public const string PublicLabelPrefix = "public/";

    /// <summary>Groups that one microVM may be a member of: every node's placement counts each of them for each host.</summary>
    public const int MaxGroups = 4;

    /// <summary>Rules of one microVM about being with groups or apart from them.</summary>
    public const int MaxAffinities = 16;

    /// <summary>Groups that one microVM keeps even.</summary>
    public const int MaxSpreads = 4;

    /// <summary>The largest difference that a spread may leave.</summary>
    public const int MaxSpreadAhead = 1000;

    /// <summary>Members of a gang: room is held for all of them at once, one after the other.</summary>
    public const int MaxGangSize = 100;

    /// <summary>Of a gang's name: it and a member's number are that one's name.</summary>
    public const int MaxGangNameLength = 60;

    /// <summary>Volumes of one microVM: each is a disk.</summary>
    public const int MaxVolumes = 4;

    /// <summary>The smallest volume that a file system with a journal fits into.</summary>
    public const int MinVolumeMib = 16;

    /// <summary>8 TiB: within what ext4 makes of blocks of 4 KiB.</summary>
    public const int MaxVolumeMib = 8 << 20;

    /// <summary>Of one host: above any, far below where sums over hosts overflow.</summary>
    public const long MaxHostDiskMib = 1L << 34;

    /// <summary>Of one host's link.</summary>
    public const int MaxNetworkMbit = 10_000_000;

    /// <summary>Of one host's disks.</summary>
    public const int MaxIops = 1_000_000_000;

    /// <summary>UTF-8 bytes of the path where a guest finds a volume.</summary>
    public const int MaxVolumePathBytes = 1023;

    /// <summary>Of a volume for which nobody names one.</summary>
    public const int DefaultVolumeMib = 1024;

    /// <summary>The label by which a host tells its zone.</summary>
    public const string ZoneLabel = "zone";

    /// <summary>Length of a label's key.</summary>
    public const int MaxLabelKeyLength = 63;

    /// <summary>Length of a label's value.</summary>
    public const int MaxLabelValueLength = 63;

    /// <summary>UTF-8 bytes of a path: one less than Linux's PATH_MAX, which counts the final zero.</summary>
    public const int MaxPathBytes = 4095;

    /// <summary>x86 Linux keeps 2048 bytes of command line, of which the host needs some for its own part.</summary>
    public const int MaxBootArgsLength = 1536;

    /// <summary>An hour: emulated guests are slow, but not that slow.</summary>
    public const int MaxBootTimeoutSeconds = 3600;

    /// <summary>Boot time-out with the default image, whose init reports that it is ready.</summary>
    public const int DefaultBootTimeoutSeconds = 120;

    /// <summary>Longest boot or run of a simulated guest: 30 days.</summary>
    public const uint MaxSimulatedMs = 30u * 24 * 3600 * 1000;

    /// <summary>Steps of a simulated guest's usage curve: a day of five minutes each.</summary>
    public const int MaxCurveSteps = 288;

    /// <summary>Shortest step of such a curve.</summary>
    public const uint MinCurveStepMs = 1000;

    /// <summary>Tokens of one bucket of a rate limiter: a pebibyte, far below where sums overflow.</summary>
    public const long MaxBucketSize = 1L << 50;

    /// <summary>An hour: what fills more slowly limits by hours that nobody waits.</summary>
    public const long MaxRefillMs = 3_600_000;

    /// <summary>Ports of its host that one microVM may have.</summary>
    public const int MaxPorts = 32;

    /// <summary>Of a host's drain: a week.</summary>
    public const int MaxDrainSeconds = 7 * 24 * 3600;

    public const int DefaultDrainSeconds = 3600;

    /// <summary>Longest grace that a stop may ask for.</summary>
    public const int MaxGraceSeconds = 300;

    /// <summary>Grace of a stop that names none.</summary>
    public const int DefaultGraceSeconds = 10;

    /// <summary>The same of a microVM of that spec.</summary>
    public static int GraceSecondsOf(Contracts.VmSpec spec) => spec.HasStopGraceSeconds ? (int)spec.StopGraceSeconds : DefaultGraceSeconds;
}
