package headrace;

import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.errors.ConnectException;
import org.apache.kafka.connect.source.SourceRecord;
import org.apache.kafka.connect.transforms.Transformation;

/**
 * Gives each record that MirrorMaker copies a header with its place in its site's own cluster, and keeps to a rate.
 *
 * A header of that name which the site sent is replaced: the name of the site is that of the target's configuration.
 */
public class Origin implements Transformation<SourceRecord> {
    static final String HEADER = "headrace-origin";
    static final String RATE = "bytes.per.second";

    private long bytesPerSecond;
    private long freeAtNanos = System.nanoTime();

    @Override
    public ConfigDef config() {
        return new ConfigDef().define(RATE, ConfigDef.Type.LONG, 0L, ConfigDef.Importance.LOW, "0: no limit.");
    }

    @Override
    public void configure(Map<String, ?> settings) {
        bytesPerSecond = (Long) config().parse(settings).get(RATE);
    }

    @Override
    public SourceRecord apply(SourceRecord record) {
        Map<String, ?> partition = record.sourcePartition();
        if (partition.get("topic") == null) {
            return record;
        }
        waitFor(size(record.key()) + size(record.value()));
        String place = String.format(
            "{\"site\": \"%s\", \"topic\": \"%s\", \"partition\": %s, \"offset\": %s}",
            partition.get("cluster"), partition.get("topic"), partition.get("partition"),
            record.sourceOffset().get("offset"));
        record.headers().remove(HEADER);
        record.headers().addBytes(HEADER, place.getBytes(StandardCharsets.UTF_8));
        return record;
    }

    @Override
    public void close() {
    }

    private void waitFor(long bytes) {
        if (bytesPerSecond == 0) {
            return;
        }
        try {
            TimeUnit.NANOSECONDS.sleep(freeAtNanos - System.nanoTime());
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new ConnectException("stopped while waiting for the rate of the link", e);
        }
        long nanos = (long) (bytes * 1e9 / bytesPerSecond);
        freeAtNanos = Math.max(freeAtNanos, System.nanoTime()) + nanos;
    }

    private static long size(Object bytes) {
        return bytes == null ? 0 : ((byte[]) bytes).length;
    }
}
