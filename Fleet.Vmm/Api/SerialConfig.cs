using Fleet.Vmm.Machines;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Api;

/// <summary>Body of <c>PUT /serial</c>: where the console goes, and how much of it.</summary>
internal static class SerialConfig
{
    private static readonly string[] Fields = ["serial_out_path", "rate_limiter"];

    public static SerialSettings Read(ref JsonBody body)
    {
        body.ExpectObject("struct SerialConfig");
        string? path = null;
        BucketSettings? limit = null;
        uint seen = 0;
        while (body.NextField(Fields, ref seen, out var field))
        {
            if (body.IsNull)
            {
                continue;
            }

            if (field == 0)
            {
                path = body.String();
            }
            else
            {
                limit = LimiterConfig.ReadBucket(ref body);
            }
        }

        return new SerialSettings(path, limit);
    }
}
