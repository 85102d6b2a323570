"""Partial module: the part of ``distributed.client`` that differs from the base.

The build puts these definitions into the base's module; what happens to which name is
written down in ``continuous_integration/fork/divergence.json``.
"""

from __future__ import annotations


class Client:
    def rootish(self) -> Any:
        """Ask the scheduler which task groups are root-ish, and why tasks are queued.

        Returns
        -------
        RootishStatus
            It is printed as a table, has one for notebooks, and ``to_dict``. Groups
            are in it as long as the scheduler knows them. What queued tasks wait for is
            in ``waits`` of each group, and in the table if there are any.

        Raises
        ------
        RuntimeError
            If the scheduler keeps no verdicts, as one of a release does.

        See Also
        --------
        Client.explain_rootish
        """
        from distributed.rootish.monitor import ask_scheduler

        return self.sync(ask_scheduler, self.scheduler)

    def explain_rootish(self, *collections: Any) -> Any:
        """Tell which groups of a computation will be root-ish on this cluster, and why.

        Nothing is run. The settings are those of this process.

        Parameters
        ----------
        *collections
            Collections of dask that are to be computed at once.

        Returns
        -------
        Explanation
            It is printed as a table, has one for notebooks, and ``to_dict``.

        Raises
        ------
        TypeError
            If one is no collection.
        ValueError
            If there are no collections, or the cluster has no workers.

        See Also
        --------
        distributed.rootish.explain
        Client.rootish
        """
        from distributed.rootish.explanation import explain_on_cluster

        return self.sync(explain_on_cluster, collections, self.scheduler)
