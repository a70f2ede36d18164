import faust.tables


class NoTables(faust.tables.TableManager):
    """Faust's manager of tables, for an app that has none.

    As it comes it asks the consumer for its partitions a second after the start, tables or not. On a busy machine the
    consumer does not run by then: `ConsumerNotStarted`, and the worker ends.
    """

    async def _update_channels(self) -> None:
        self._tables_finalized.set()
        self._tables_registered.set()
